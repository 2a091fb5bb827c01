"""Tables on standard output."""

from __future__ import annotations

from rich.console import Console


class StandardOutput(Console):
    """A console that raises `BrokenPipeError`, for `main` to handle as it does for other output."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled; rich would end the process."""
        raise
