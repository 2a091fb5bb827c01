"""A file system that fails where a test says."""

from __future__ import annotations

import errno
import os
from collections import Counter

from store.filesystem import FileSystem

CALLS = (
    "make_folder", "create", "open", "open_to_write", "reserve", "truncate", "write_at", "read_into", "copy_range",
    "sync", "rename", "unlink", "sync_folder", "read", "touch",
)  # fmt: skip


class FailingFileSystem(FileSystem):
    """The real one, but the n-th call of a kind after `fail` raises `OSError`, and unless `once` all later ones."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._fail: dict[str, tuple[int, int, bool]] = {}

    def fail(self, call: str, number: int = 1, code: int = errno.ENOSPC, *, once: bool = False) -> None:
        assert call in CALLS
        self._fail[call] = (self.seen[call] + number, code, once)

    def mend(self) -> None:
        self._fail.clear()

    def __getattribute__(self, name: str):
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found

        def call(*args, **kwargs):
            self.seen[name] += 1
            number, code, once = self._fail.get(name, (0, 0, False))
            if number and (self.seen[name] == number if once else self.seen[name] >= number):
                raise OSError(code, os.strerror(code))
            return found(*args, **kwargs)

        return call
