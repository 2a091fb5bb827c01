"""The parts of Markdown files that tests run or compare: named code blocks, tables, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_FENCE = re.compile(
    r"(?:^<!-- (?P<name>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Block:
    """A fenced code block. `name` is the comment on the line before, or empty."""

    name: str
    language: str
    text: str


def read(path: str) -> str:
    """Return a file of the project."""
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(path: str) -> list[Block]:
    """Return the code blocks of a file, in order."""
    return [Block(found["name"] or "", found["language"], found["text"]) for found in _FENCE.finditer(read(path))]


def table(path: str, name: str) -> list[list[str]]:
    """Return the rows of the table under `<!-- name -->`, without its head; cells as written."""
    lines = iter(read(path).split(f"<!-- {name} -->\n", 1)[1].splitlines())
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


def documents() -> list[str]:
    """Return every Markdown file of the project, as paths from its root."""
    folders: list[Path] = [ROOT, ROOT / "docs", ROOT / "benchmarks"]
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in folder.glob("*.md"))


def links(path: str) -> list[str]:
    """Return the files that a file links to, as written."""
    return _LINK.findall(read(path))
