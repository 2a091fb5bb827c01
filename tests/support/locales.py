"""Environments in which Python does not use UTF-8: for tests of names on disk and of output."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""The locale of POSIX without the two ways in which Python replaces it by UTF-8."""

FOLDER = Path(tempfile.gettempdir(), f"trionode-locales-{os.getuid()}")
"""Where locales are made, once for all runs of the tests."""


def _made(language: str, charset: str) -> dict[str, str]:
    """Return the environment of a locale that is made for the tests; empty if the system has no source of it."""
    made = FOLDER / f"{language}.{charset}"
    if not made.exists() and Path("/usr/share/i18n/charmaps", f"{charset}.gz").exists():
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as work:
            new = Path(work, made.name)
            # Status 1 means warnings.
            subprocess.run(["localedef", "-i", language, "-f", charset, new], capture_output=True, check=False)
            with suppress(OSError):  # another process of the tests was first
                new.rename(made)
    return {**ASCII, "LC_ALL": made.name, "LOCPATH": str(FOLDER)} if made.exists() else {}


@functools.cache
def environments() -> dict[str, dict[str, str]]:
    """Return the environments that this system can have, by name."""
    found = {"ascii": ASCII, "latin-1": _made("en_US", "ISO-8859-1"), "gbk": _made("zh_CN", "GBK")}
    return {name: env for name, env in found.items() if env}
