"""The READMEs' table of settings, made from the code: `python -m tests.support.settings_table` writes it.

The English table is made whole. In the Chinese one, the texts of the last column are kept.
"""

from __future__ import annotations

from tests.support.markdown import read, table
from tests.support.processes import ROOT
from trionode.settings import SPECS, flag_of

LANGUAGES = ("README.md", "README.zh-CN.md")
NAME = "settings"


def rows(path: str) -> list[list[str]]:
    """Return the rows of the table of a README as the code has them."""
    texts = {row[0]: row[4] for row in table(path, NAME)}
    made = []
    for setting, spec in SPECS.items():
        text = spec.help if path == "README.md" else texts.get(f"`{setting}`", "")
        default = f"`{spec.shown_default}`" if spec.shown_default else ""
        made.append([f"`{setting}`", f"`{flag_of(setting)}`", f"`{spec.variable}`", default, text])
    return made


def main() -> None:
    """Write both tables."""
    for path in LANGUAGES:
        before, mark, after = read(path).partition(f"<!-- {NAME} -->\n")
        lines = after.splitlines(keepends=True)
        head = [lines.pop(0), lines.pop(0)]
        while lines[0].startswith("|"):
            lines.pop(0)
        drawn = [f"| {' | '.join(cells)} |\n".replace("|  |", "| |") for cells in rows(path)]
        (ROOT / path).write_text(before + mark + "".join(head + drawn + lines), encoding="utf-8")


if __name__ == "__main__":
    main()
