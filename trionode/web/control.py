"""The control socket of a node: its path, and the mark of its requests. Imports the standard library only."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOCKET = "control.sock"

MAX_PATH_BYTES = 107
"""The longest path in the address of a socket on Linux."""

CONTROL = "trionode.control"
"""The ASGI extension that marks a request on the control socket."""


@contextmanager
def short_path(storage: Path) -> Iterator[str]:
    """Yield a path of the control socket that fits into a socket address, however deep the folder is.

    Raises `OSError` if the folder does not exist, or the path is too long and /proc is missing.
    """
    if len(os.fsencode(storage / SOCKET)) <= MAX_PATH_BYTES:
        yield os.fspath(storage / SOCKET)
        return
    fd = os.open(storage, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)
