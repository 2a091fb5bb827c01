"""BLAKE3 digests, which name packages and chunks. Pure: imports no module that does I/O."""

from __future__ import annotations

import re
from typing import Self

from blake3 import blake3

from .errors import StoreError

_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


class InvalidDigest(StoreError, ValueError):
    """`text` is not 64 lower-case hexadecimal digits."""

    def __init__(self, text: object) -> None:
        super().__init__(f"not a BLAKE3 digest (64 lower-case hexadecimal digits): {str(text)[:80]!r}")
        self.text = text


class Digest(str):
    """A BLAKE3 digest: exactly 64 lower-case hexadecimal digits.

    A `str`, so that it can be used as JSON value, file name and ETag. It is validated when it is created, so a function
    that takes a `Digest` need not validate it again. Raises `InvalidDigest` for anything else.
    """

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """Validate `text`, which may come from an untrusted source."""
        if not isinstance(text, str) or _HEX.fullmatch(text) is None:
            raise InvalidDigest(text)
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Self:
        """Return the digest of `data`, computed on this thread (4 to 6 GB/s)."""
        return cls(blake3(data).hexdigest())
