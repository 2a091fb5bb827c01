"""Repr-Digest (RFC 9530), for clients that ask for it.

The ETag is the BLAKE3 digest of the package, but BLAKE3 is not among the algorithms registered for digest fields, so
a field that named it would mean nothing to anybody. SHA-256 is registered, and costs another pass over the package:
it is made once for each version, and only when a client wants it (Want-Repr-Digest) and the version is all here.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from store import Digest

    from .checked import CheckedLease

LARGEST_BYTES = 256 << 20
"""A larger package would keep its client waiting for the headers: seconds, if it is not in memory."""

WINDOW_BYTES = 1 << 20
MOST_KNOWN = 1000
_WANTED = re.compile(r"(?:^|,)[ \t]*sha-256=([0-9]{1,2})(?:\.[0-9]*)?[ \t]*(?=,|;|$)", re.ASCII)


def is_wanted(want_repr_digest: str | None) -> bool:
    """Tell whether a Want-Repr-Digest field asks for SHA-256 (a preference of 0 means that it must not be)."""
    preferences = _WANTED.findall(want_repr_digest or "")
    return bool(preferences) and int(preferences[-1]) > 0


class ReprDigests:
    """The Repr-Digest values of versions, as far as they were asked for."""

    def __init__(self) -> None:
        self._known: dict[Digest, str] = {}
        self._making = trio.Lock()

    async def of(self, lease: CheckedLease) -> str | None:
        """Return the field's value for a leased version; None for one that is too large, or not right at the moment."""
        if lease.size > LARGEST_BYTES:
            return None
        # One pass at a time: many who ask for one version cost one, and many versions one core.
        async with self._making:
            if lease.digest not in self._known:
                value = await trio.to_thread.run_sync(_hash, lease.fileno(), lease.size)
                if value is None or not lease.trusted:
                    return None
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known[lease.digest] = f"sha-256=:{value}:"
            return self._known[lease.digest]


def _hash(fd: int, size: int) -> str | None:
    """Return the base64 of a file's SHA-256, None when it is not of that size any more."""
    hasher = hashlib.sha256()
    offset = 0
    while data := os.pread(fd, WINDOW_BYTES, offset):
        hasher.update(data)
        offset += len(data)
    return base64.b64encode(hasher.digest()).decode("ascii") if offset == size else None
