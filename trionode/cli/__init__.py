"""The command `trionode`, one module for each group of commands, imported when a command of it runs.

Exit statuses of all commands: 0 success; 1 failure; 2 wrong usage; 3 no node answers
(`status`, `sync`, `drain`, `reload`); 4 damage was found and repaired (`verify --repair`);
141 whoever read the output has left.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class _Output(io.FileIO):
    """Standard output, which remembers why it could not be written: the error may be reported long after it."""

    reason: str | None = None

    def write(self, data: Buffer) -> int | None:  # type: ignore[override]
        """Write some bytes."""
        try:
            return super().write(data)
        except OSError as error:
            self.reason = error.strerror
            raise


def prepare_streams() -> None:
    """Open the standard streams that are closed, and let output replace characters that its encoding lacks.

    Otherwise a file that is opened later gets their numbers, and Python has no such stream. Writing to a standard
    output that was closed fails, as in other programs; what is written to a closed standard error is lost.
    """
    for fd, name, mode in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False, encoding="utf-8"))  # noqa: SIM115
    if sys.stdout is sys.__stdout__ or sys.__stdout__ is None:
        output = io.BufferedWriter(_Output(1, "w", closefd=False))
        lines = sys.stdout.isatty() or bool(os.environ.get("PYTHONUNBUFFERED"))
        sys.stdout = io.TextIOWrapper(output, encoding=sys.stdout.encoding, line_buffering=lines)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_error(message: str) -> None:
    """Print a message on standard error; it is lost if that cannot be written."""
    with suppress(OSError):
        print(message, file=sys.stderr)


def discard_unwritten() -> str | None:
    """Discard what standard output and error could not write: Python would end with status 120 for it.

    Returns why standard output could not be written; None if it could.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.reason if isinstance(raw, _Output) else None
