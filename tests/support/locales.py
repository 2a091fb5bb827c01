"""Environments in which Python does not use UTF-8: for tests of names on disk and of output."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""The locale of POSIX without the two ways in which Python replaces it by UTF-8."""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="trionode-locales-")


def _made(language: str, charset: str) -> dict[str, str]:
    """Return the environment of a locale that is made for the tests; empty if the system has no source of it."""
    name = f"{language}.{charset}"
    made = Path(_folder().name, name)
    if Path("/usr/share/i18n/charmaps", f"{charset}.gz").exists():
        # Status 1 means warnings.
        subprocess.run(["localedef", "-i", language, "-f", charset, made], capture_output=True, check=False)
    return {**ASCII, "LC_ALL": name, "LOCPATH": _folder().name} if made.exists() else {}


@functools.cache
def environments() -> dict[str, dict[str, str]]:
    """Return the environments that this system can have, by name."""
    found = {"ascii": ASCII, "latin-1": _made("en_US", "ISO-8859-1"), "gbk": _made("zh_CN", "GBK")}
    return {name: env for name, env in found.items() if env}
