"""The command `trionode`, one module for each group of commands, imported when a command of it runs.

Exit statuses of all commands: 0 success; 1 failure; 2 wrong usage; 3 no node answers
(`status`, `sync`, `drain`, `reload`); 4 damage was found and repaired (`verify --repair`);
141 whoever read the output has left.
"""

from __future__ import annotations

import io
import os
import sys


def replace_unencodable() -> None:
    """Let output replace characters that the encoding of the terminal lacks, where Python raises an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_unwritten() -> None:
    """Discard what standard output and error could not write: Python would end with status 120 for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
