"""Results on standard output: tables for people, and JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping


MAX_SHOWN_CHARS = 1_000
"""Length limit of any text from a node."""


class StandardOutput(Console):
    """A console that raises `BrokenPipeError`, for `main` to handle as it does for other output."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled; rich would end the process."""
        raise


def print_json(report: Mapping[str, object]) -> None:
    """Print a result as JSON. It is valid in every encoding of the output."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(report, ensure_ascii=not unicode, indent=2))
