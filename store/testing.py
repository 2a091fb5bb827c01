"""For tests of what stands on the store: a file system that fails, or stops, where it is told to."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from .filesystem import FileSystem

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = (
    "make_folder",
    "create",
    "open",
    "open_to_write",
    "reserve",
    "truncate",
    "write_at",
    "read_into",
    "copy_range",
    "sync",
    "rename",
    "unlink",
    "sync_folder",
    "list",
    "exists",
    "is_folder",
    "read",
    "touch",
    "look",
    "look_at",
    "lock",
    "room",
)
"""What can fail. Closing a descriptor always closes it, as the system does whatever it says."""

CHANGES = frozenset(
    {
        "make_folder",
        "create",
        "reserve",
        "truncate",
        "write_at",
        "copy_range",
        "sync",
        "rename",
        "unlink",
        "sync_folder",
    }
)
"""The calls by which names and bytes change, or are made to last."""


class Stopped(BaseException):
    """The process is dead: no call does anything any more. Not an `Exception`, so that nothing goes on after it."""


class FaultyFileSystem(FileSystem):
    """The real file system, which fails where a test says; mix it into another `FileSystem` for that one to fail.

    Safe from any thread. `seen` counts the calls of each kind, `changes` those that change anything. Faults are asked
    for by `fail` and `stop`, counted from then on, and end with `mend`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.changes = 0
        self._lock = threading.Lock()
        self._faults: dict[str, tuple[int, int, bool, bool]] = {}
        self._stop_at = 0

    def fail(
        self, call: str, number: int = 1, code: int = errno.ENOSPC, *, once: bool = False, short: bool = False
    ) -> None:
        """Let the `number`-th `call` from now on raise `OSError(code)`, and unless `once` all after it.

        With `short`, a write or a copy first does half of what was asked for, as a disk does that fills up under it.
        """
        if call not in CALLS:
            raise ValueError(f"{call!r} is none of {CALLS}")
        with self._lock:
            self._faults[call] = (self.seen[call] + number, code, once, short)

    def stop(self, number: int = 1) -> None:
        """Let the `number`-th change from now on not happen, and nothing after it: `Stopped` is raised instead."""
        with self._lock:
            self._stop_at = self.changes + number

    def mend(self) -> None:
        """Fail no more."""
        with self._lock:
            self._faults.clear()
            self._stop_at = 0

    def _call(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        with self._lock:
            self.seen[name] += 1
            self.changes += name in CHANGES
            if self._stop_at and self.changes >= self._stop_at:
                raise Stopped
            number, code, once, short = self._faults.get(name, (0, 0, False, False))
            fails = number and (self.seen[name] == number if once else self.seen[name] >= number)
        if fails:
            if short:
                call(*_half(name, args))
            raise OSError(code, os.strerror(code))
        return call(*args)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return partial(self._call, name, found) if name in CALLS else found


def _half(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments for half of a write, or of a copy."""
    if name == "write_at":
        fd, data, offset = args
        return fd, memoryview(data)[: len(data) // 2], offset
    if name == "copy_range":
        return *args[:-1], args[-1] // 2
    return args
