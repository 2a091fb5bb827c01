"""Find the members of a zip, and check that a zip is a complete package.

The bytes may be hostile: the errors that `zipfile` raises for them are listed once, and a directory is read into memory
only up to a bound. Opens nothing: the caller passes a read function.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .buffered_reader import BUFFER_BYTES, ReadInto, read_exactly
from .errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from _typeshed import WriteableBuffer

HOSTILE = (
    zipfile.BadZipFile,  # the documented error
    struct.error,  # truncated records
    ValueError,  # seeks before the start, names that do not decode, and the bound of `_File.read`
    NotImplementedError,  # an unknown version or method
    EOFError,  # truncated members
    OSError,  # invalid seeks
    OverflowError,  # sizes beyond 64 bits
    RuntimeError,  # encrypted members
    IndexError,  # extra fields with a wrong length
    zlib.error,
)
"""All errors that `zipfile` raises for invalid zips. `PackageChanged` is none of them."""

MAX_DIRECTORY_BYTES = 4 * 1024 * 1024
"""The longest directory (about 40,000 members) by which a zip is split, since the manifest contains it."""

CHECK_DIRECTORY_BYTES = 64 * 1024 * 1024
"""The longest directory of a zip that is accepted from a stream."""

_LOCAL = struct.Struct("<4s22xHH")
_END = struct.Struct("<4s16xH")
_CHECKED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class PackageRejected(StoreError):
    """A stream is no package: it is empty, truncated, not a zip, or a zip that holds only ERROR.txt."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a package: {reason}")
        self.reason = reason


class _ReadFailed(Exception):
    """The read function raised `error`, which is then not mistaken for an error about the zip (see `HOSTILE`)."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _File(io.RawIOBase):
    """A file object for `zipfile` that raises `ValueError` for reads of more than `limit` bytes.

    Errors of the read function are raised as `_ReadFailed`.
    """

    def __init__(self, read_into: ReadInto, size: int, limit: int) -> None:
        self._read_into = read_into
        self._size = size
        self._limit = limit
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise ValueError(f"negative position {at}")
        self._at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        if count > self._limit:
            raise ValueError(f"a read of {count} bytes is more than a valid zip needs")
        data = bytearray(count)
        try:
            read_exactly(self._read_into, memoryview(data), self._at)
        except OSError as error:
            raise _ReadFailed(error) from error
        self._at += count
        return bytes(data)

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


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
        with zipfile.ZipFile(_File(read_into, size, MAX_DIRECTORY_BYTES)) as archive:
            members, directory = archive.infolist(), archive.start_dir
    except _ReadFailed as failed:
        raise failed.error from None
    except HOSTILE:
        return None
    return Members(tuple(_data_ranges(read_into, size, members)), directory)


def _data_ranges(read_into: ReadInto, size: int, members: Sequence[zipfile.ZipInfo]) -> Iterator[tuple[int, int]]:
    header = memoryview(bytearray(_LOCAL.size))
    for info in members:
        if not 0 <= info.header_offset <= size - len(header):
            continue
        read_exactly(read_into, header, info.header_offset)
        signature, name_size, extra_size = _LOCAL.unpack(header)
        # The lengths in the local header count: they often differ from those in the directory.
        if signature == b"PK\x03\x04":
            yield info.header_offset + _LOCAL.size + name_size + extra_size, info.compress_size


def check_package(read_into: ReadInto, size: int) -> None:
    """Read a whole package, as a client that unpacks it would. Raises `PackageRejected` with the reason.

    A package is a zip that ends with its end record, has a member besides ERROR.txt, and whose members all have the
    right checksum (encrypted members and those with a rare method: are complete). Errors of the read function are
    raised as they are.
    """
    if size == 0:
        raise PackageRejected("it is empty")
    try:
        with zipfile.ZipFile(_File(read_into, size, CHECK_DIRECTORY_BYTES)) as archive:
            _check_end(read_into, size, len(archive.comment))
            members = archive.infolist()
            if not members:
                raise PackageRejected("it has no members")
            if all(info.filename == "ERROR.txt" for info in members):
                raise PackageRejected("it holds only ERROR.txt")
            for info in members:
                _check_member(archive, info, size)
    except _ReadFailed as failed:
        raise failed.error from None
    except HOSTILE as error:
        raise PackageRejected(f"not a complete zip: {str(error) or type(error).__name__}") from error


def _check_end(read_into: ReadInto, size: int, comment_size: int) -> None:
    """Check that nothing follows the end record: `zipfile` searches for it near the end."""
    record = memoryview(bytearray(_END.size))
    start = size - len(record) - comment_size
    if start >= 0:
        read_exactly(read_into, record, start)
        if _END.unpack(record) == (b"PK\x05\x06", comment_size):
            return
    raise PackageRejected("it does not end where its directory says")


def _check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> None:
    if info.flag_bits & 0x1 or info.compress_type not in _CHECKED_METHODS:
        if info.header_offset + info.compress_size > size:
            raise PackageRejected(f"member {info.filename[:80]!r} is truncated")
        return
    with archive.open(info) as member:
        while member.read(BUFFER_BYTES):
            pass
