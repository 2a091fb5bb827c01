"""A file system that fails, or stops, at a given call."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from store.filesystem import FileSystem

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = (
    "make_folder",
    "create",
    "open",
    "open_to_write",
    "allocate",
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
    "stat",
    "fstat",
    "lock",
    "disk_space",
)
"""The calls that can fail. Closing a descriptor always closes it, also on a real system that reports an error."""

CHANGES = frozenset(
    {
        "make_folder",
        "create",
        "allocate",
        "truncate",
        "write_at",
        "copy_range",
        "sync",
        "rename",
        "unlink",
        "sync_folder",
    }
)
"""The calls that change names or bytes, or make them durable."""


class Stopped(BaseException):
    """The process was killed: calls have no effect. Not an `Exception`, so that no handler continues."""


class FaultyFileSystem(FileSystem):
    """The real file system with injected faults.

    Safe from any thread. `seen` counts the calls of each kind, `changes` those that change anything. Faults are set by
    `fail` and `stop`, which count calls from then on, and cleared by `clear_faults`.
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
        """Make the `number`-th `call` from now on raise `OSError(code)`, and unless `once` all calls after it.

        With `short`, a write or a copy first does half of its work, as on a disk that becomes full.
        """
        if call not in CALLS:
            raise ValueError(f"{call!r} is none of {CALLS}")
        with self._lock:
            self._faults[call] = (self.seen[call] + number, code, once, short)

    def stop(self, number: int = 1) -> None:
        """Make the `number`-th change from now on, and all calls after it, raise `Stopped` without any effect."""
        with self._lock:
            self._stop_at = self.changes + number

    def clear_faults(self) -> None:
        """Remove all faults."""
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
    """Return the arguments for half of a write or copy."""
    if name == "write_at":
        fd, data, offset = args
        return fd, memoryview(data)[: len(data) // 2], offset
    if name == "copy_range":
        return *args[:-1], args[-1] // 2
    return args
