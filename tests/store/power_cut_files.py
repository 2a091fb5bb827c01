"""Files and folders in memory that remember what has not been synced."""

from __future__ import annotations

import random
from pathlib import Path

SECTOR = 512
"""Bytes of a sector: a torn write is on the disk up to the end of a sector."""


class File:
    """An inode: its bytes as programs see them, its durable bytes, and the writes since the last sync."""

    def __init__(self, number: int, data: bytes = b"", when: int = 0) -> None:
        self.number = number
        self.data = bytearray(data)
        self.durable = data
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, bytes) written; (size, None) set
        self.mtime = self.ctime = when
        self.links = 0
        self.holder: int | None = None  # the descriptor that has the lock

    def change(self, offset: int, data: bytes | None) -> None:
        self.pending.append((offset, data))
        apply_write(self.data, offset, data)

    def versions(self, pick: random.Random) -> list[bytes]:
        """Return the possible contents after a power cut: pending writes lost, present, and torn in three ways."""
        if not self.pending:
            return [self.durable, self.durable]
        torn = [
            [op for op in self.pending if op[1] is None],  # sizes set, no bytes written
            [*self.pending[:-1], half_of(self.pending[-1])],
            [op if pick.random() < 0.5 else half_of(op) for op in self.pending if pick.random() < 0.7],
        ]
        found = [self.durable, bytes(self.data)]
        for ops in torn:
            data = bytearray(self.durable)
            for op in ops:
                apply_write(data, *op)
            found.append(bytes(data))
        return [*found[:2], *(data for data in dict.fromkeys(found[2:]) if data not in found[:2])]


def comparable(path: Path) -> str:
    """Return a path for comparisons: temporary names are random."""
    return str(path.with_name("x.tmp") if path.suffix == ".tmp" else path)


def apply_write(data: bytearray, offset: int, written: bytes | None) -> None:
    end = offset if written is None else offset + len(written)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    if written is None:
        del data[offset:]
    else:
        data[offset:end] = written


def half_of(op: tuple[int, bytes | None]) -> tuple[int, bytes | None]:
    offset, data = op
    if data is None:
        return op
    cut = len(data) // 2
    return (offset, data[: cut - cut % SECTOR] or data[: len(data) // 2])


class Folder:
    """Names, each with all files that it named since the folder was last synced; None for no file."""

    def __init__(self) -> None:
        self.names: dict[str, list[File | Folder | None]] = {}

    def get(self, name: str) -> File | Folder | None:
        return self.names.get(name, [None])[-1]

    def put(self, name: str, entry: File | Folder | None) -> None:
        self.names.setdefault(name, [None]).append(entry)

    def listed(self) -> dict[str, File | Folder]:
        return {name: past[-1] for name, past in self.names.items() if past[-1] is not None}

    def sync(self) -> None:
        self.names = {name: [past[-1]] for name, past in self.names.items() if past[-1] is not None}
