"""Find the members of a zip, and check that a zip is a package. Opens nothing: the caller passes a read function.

The bytes may be hostile: whatever they are, the work is bounded, and the result is "a package" or `PackageRejected`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from .buffered_reader import ReadInto, read_exactly
from .zip_directory import PackageRejected, read_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .zip_directory import Directory, Entry

MAX_DIRECTORY_BYTES = 4 * 1024 * 1024
"""The longest directory (about 40,000 members) by which a zip is split, since the manifest contains it."""

CHECK_DIRECTORY_BYTES = 16 * 1024 * 1024
"""The longest directory (about 160,000 members) of a package. Reading one takes a second."""

MAX_UNPACKED_RATIO = 100
SMALL_UNPACKED_BYTES = 1024**3
"""A package unpacks to at most this many times its size, or to this many bytes. Documents are far below it, and
unpacking takes no longer than fetching then: up to 1,000 times is possible."""

READ_BYTES = 64 * 1024
"""Bytes per read of a member. They unpack to 64 MiB at most, so that the read function is called several times a second
and can end the work."""

UNPACK_BYTES = 1024 * 1024
"""Bytes that are unpacked at once."""

_LOCAL = struct.Struct("<4s10xL8xHH")
_ENCRYPTED = 0x1
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True, slots=True)
class Members:
    """The ranges (offset, size) of the data of a zip's members, and the offset of its directory; not validated."""

    ranges: tuple[tuple[int, int], ...]
    directory: int


def find_members(read_into: ReadInto, size: int) -> Members | None:
    """Return the members of a zip, or None for bytes that are no zip, or whose directory is too long.

    Only the header of each member is checked: ranges may overlap or lie outside the file. Raises `PackageChanged` when
    the file ends before `size`, and the errors of the read function.
    """
    try:
        directory = read_directory(read_into, size, MAX_DIRECTORY_BYTES)
    except PackageRejected:
        return None
    found = (_locate(read_into, size, entry) for entry in directory.entries)
    return Members(tuple((data.offset, data.entry.packed) for data in found if data is not None), directory.start)


def count_files(read_into: ReadInto, size: int) -> int:
    """Return the number of files in a zip; 0 for bytes that are no zip. Errors as `find_members`."""
    try:
        directory = read_directory(read_into, size, CHECK_DIRECTORY_BYTES)
    except PackageRejected:
        return 0
    return sum(entry.is_file for entry in directory.entries)


def check_package(read_into: ReadInto, size: int, *, unpack: bool = True) -> None:
    """Check that a file is a package. Raises `PackageRejected` with the reason.

    A package is a zip that a program can unpack, with a file besides ERROR.txt: its directory is whole, and its members
    are, and do not overlap. Names, versions and extra fields do not matter, nor do bytes before and after the zip.

    With `unpack`, all members are read and have the right checksum, except encrypted ones and those with a rare
    method; without it, the bytes must be known to be the master's. Raises `PackageChanged` when the file ends before
    `size`, and the errors of the read function.
    """
    directory = read_directory(read_into, size, CHECK_DIRECTORY_BYTES)
    files = [entry for entry in directory.entries if entry.is_file]
    if not files:
        raise PackageRejected("it holds no files")
    if all(entry.name == b"ERROR.txt" for entry in files):
        raise PackageRejected("it holds only ERROR.txt")
    found = _locate_all(read_into, size, directory)
    most = max(SMALL_UNPACKED_BYTES, MAX_UNPACKED_RATIO * size)
    if sum(entry.size for entry in files) > most:
        raise PackageRejected(f"it unpacks to more than {most} bytes")
    if unpack:
        for data in found:
            most -= _check_data(read_into, data, most)


@dataclass(frozen=True, slots=True)
class _Data:
    """Where the data of a member is, and the checksums that its directory entry and its local header have for it."""

    entry: Entry
    offset: int
    checksums: tuple[int, int]


def _locate(read_into: ReadInto, size: int, entry: Entry) -> _Data | None:
    """Return where a member's data is; None if its local header is not there.

    The lengths in the local header count: they often differ from those in the directory.
    """
    if not 0 <= entry.header <= size - _LOCAL.size:
        return None
    header = bytearray(_LOCAL.size)
    read_exactly(read_into, memoryview(header), entry.header)
    signature, checksum, name_size, extra_size = _LOCAL.unpack(header)
    if signature != b"PK\3\4":
        return None
    return _Data(entry, entry.header + _LOCAL.size + name_size + extra_size, (entry.checksum, checksum))


def _locate_all(read_into: ReadInto, size: int, directory: Directory) -> list[_Data]:
    """Return where all data is, in the order of the file. Raises `PackageRejected` for members that overlap."""
    found: list[_Data] = []
    for entry in sorted(directory.entries, key=lambda entry: entry.header):
        data = _locate(read_into, size, entry)
        if data is None:
            raise PackageRejected(f"member {_name(entry)} is not where its directory says")
        if data.offset + entry.packed > directory.start:
            raise PackageRejected(f"member {_name(entry)} is truncated, or overlaps the directory")
        found.append(data)
    for before, after in pairwise(found):
        # A member that thousands of entries name makes a small file take hours to unpack.
        if before.offset + before.entry.packed > after.entry.header:
            raise PackageRejected(f"members {_name(before.entry)} and {_name(after.entry)} overlap")
    return found


def _check_data(read_into: ReadInto, data: _Data, most: int) -> int:
    """Unpack a member; return its size. Raises `PackageRejected` if its checksum is wrong, or it is too long.

    One checksum must be right, since `unzip` uses that of the local header and `zipfile` the other.
    """
    if data.entry.flags & _ENCRYPTED or data.entry.method not in (_STORED, _DEFLATED):
        return 0
    checksum = size = 0
    try:
        for piece in _unpacked(read_into, data):
            checksum = zlib.crc32(piece, checksum)
            size += len(piece)
            if size > most:
                raise PackageRejected(f"member {_name(data.entry)} unpacks to more than {most} bytes")
    except zlib.error as error:
        raise PackageRejected(f"member {_name(data.entry)} does not unpack ({error})") from error
    if checksum not in data.checksums:
        raise PackageRejected(f"member {_name(data.entry)} has the wrong checksum")
    return size


def _unpacked(read_into: ReadInto, data: _Data) -> Iterator[bytes | memoryview]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS) if data.entry.method == _DEFLATED else None
    buffer = memoryview(bytearray(min(READ_BYTES, data.entry.packed)))
    offset, end = data.offset, data.offset + data.entry.packed
    while offset < end:
        piece = buffer[: end - offset]
        read_exactly(read_into, piece, offset)
        offset += len(piece)
        if inflater is None:
            yield piece
            continue
        packed: bytes | memoryview = piece
        while packed and not inflater.eof:
            yield inflater.decompress(packed, UNPACK_BYTES)
            packed = inflater.unconsumed_tail
        if inflater.eof:
            return
    if inflater is not None:
        yield inflater.flush()  # what it holds back, at most some hundred bytes


def _name(entry: Entry) -> str:
    return repr(entry.name[:80].decode(errors="replace"))
