"""Read the directory of a zip. Opens nothing: the caller passes a read function.

Written for this, since the bytes may be hostile. `zipfile` raises a dozen kinds of errors for them, and refuses names,
versions and extra fields that matter only to a program that unpacks the members, and that other programs open.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .buffered_reader import ReadInto, read_exactly
from .errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

END_SEARCH_BYTES = (1 << 16) + 22
"""The end record is searched in this many bytes at the end of the file, as by `zipfile` and `unzip`: its comment has up
to 65,535 bytes, and other bytes may follow it."""

_END = struct.Struct("<4s6xHLL2x")
_END64 = struct.Struct("<4s28xQQQ")
_LOCATOR = struct.Struct("<4s4xQ4x")
_ENTRY = struct.Struct("<4s4xHH4xLLLHHH8xL")
_BIG = 0xFFFFFFFF


class PackageRejected(StoreError):
    """A file is no package: it is empty, truncated, not a zip, or a zip without files or with ERROR.txt only."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a package: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory says about a member; it may be false.

    `header` is the offset of its local header; `packed` and `size` are the bytes of its data in the file and unpacked.
    """

    name: bytes
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    header: int

    @property
    def is_file(self) -> bool:
        """Whether it is a file and not a folder."""
        return not self.name.endswith(b"/")


@dataclass(frozen=True, slots=True)
class Directory:
    """The directory of a zip, and its offset in the file."""

    entries: tuple[Entry, ...]
    start: int


@dataclass(frozen=True, slots=True)
class _End:
    """Where an end record says that the directory is. `before` are the bytes before the first byte of the zip."""

    start: int
    size: int
    before: int


def read_directory(read_into: ReadInto, size: int, most: int) -> Directory:
    """Return the directory of a zip of `size` bytes, if it has at most `most` bytes.

    Raises `PackageRejected`, `PackageChanged` when the file ends before `size`, and the errors of the read function.
    """
    if size == 0:
        raise PackageRejected("it is empty")
    end = _find_end(read_into, size)
    if end.size > most:
        raise PackageRejected(f"its directory has {end.size} bytes, more than {most}")
    directory = Directory(tuple(_entries(_read(read_into, end.start, end.size), end.before)), end.start)
    # A zip that was cut off behind a zip inside it ends with the end record of that one.
    if end.before and _read(read_into, 0, 4) == b"PK\3\4" and all(entry.header for entry in directory.entries):
        raise PackageRejected("it is cut off: its directory does not have its first member")
    return directory


def _find_end(read_into: ReadInto, size: int) -> _End:
    """Return what the last end record says for which there is a directory."""
    base = max(0, size - END_SEARCH_BYTES)
    tail = _read(read_into, base, size - base)
    at = len(tail)
    while (at := tail.rfind(b"PK\5\6", 0, at)) >= 0:
        if at + _END.size > len(tail):
            continue
        _, count, length, offset = _END.unpack_from(tail, at)
        end, count, length, offset = _find_end64(read_into, base + at) or (base + at, count, length, offset)
        if count == length == 0:
            return _End(end, 0, 0)
        # Bytes before the zip are counted in its offsets, or not.
        for start in (end - length, offset):
            if 0 <= start <= end - length and _read(read_into, start, 4) == b"PK\1\2":
                return _End(start, length, start - offset)
    raise PackageRejected("it is not a zip, or its end is missing")


def _find_end64(read_into: ReadInto, end: int) -> tuple[int, int, int, int] | None:
    """Return the offset of the end record for long zips, and the members, size and offset that it has."""
    if end < _LOCATOR.size + _END64.size:
        return None
    signature, offset = _LOCATOR.unpack(_read(read_into, end - _LOCATOR.size, _LOCATOR.size))
    nearest = end - _LOCATOR.size - _END64.size
    if signature == b"PK\6\7":
        for at in (offset, nearest):
            if at <= nearest:
                signature, count, length, start = _END64.unpack(_read(read_into, at, _END64.size))
                if signature == b"PK\6\6":
                    return at, count, length, start
    return None


def _entries(data: bytes, before: int) -> Iterator[Entry]:
    at = 0
    while at < len(data) and data[at : at + 4] != b"PK\5\5":  # a signature of the directory
        if at + _ENTRY.size > len(data) or data[at : at + 4] != b"PK\1\2":
            raise PackageRejected(f"its directory is damaged at byte {at}")
        _, flags, method, checksum, packed, size, name, extra, comment, header = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if _BIG in (packed, size, header):
            size, packed, header = _sizes64(data[at + name : at + name + extra], size, packed, header)
        yield Entry(data[at : at + name], flags, method, checksum, packed, size, header + before)
        at += name + extra + comment


def _sizes64(extra: bytes, *values: int) -> Iterator[int]:
    """Replace the values that do not fit in 32 bits by those of the extra field 1, as far as it has them."""
    at = length = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == 1:
            break
        at += length
    end = min(at + length, len(extra))
    for value in values:
        if value == _BIG and at + 8 <= end:
            yield struct.unpack_from("<Q", extra, at)[0]
            at += 8
        else:
            yield value


def _read(read_into: ReadInto, offset: int, size: int) -> bytes:
    data = bytearray(size)
    read_exactly(read_into, memoryview(data), offset)
    return bytes(data)
