"""Repr-Digest (RFC 9530), for clients that request it.

The ETag is the BLAKE3 digest of the package, which is not registered for digest fields. SHA-256 is registered, and
costs another pass over the package: it is computed once for each version, and only when a client requests it
(Want-Repr-Digest) and the whole version is stored.
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

    from .verified_lease import VerifiedLease

LARGEST_BYTES = 256 << 20
"""Size limit: hashing a larger package would delay the headers by seconds if it is not in memory."""

WINDOW_BYTES = 1 << 20
MAX_KNOWN = 1000
_REQUESTED = re.compile(r"(?:^|,)[ \t]*sha-256=([0-9]{1,2})(?:\.[0-9]*)?[ \t]*(?=,|;|$)", re.ASCII)


def is_requested(want_repr_digest: str | None) -> bool:
    """Return whether a Want-Repr-Digest field requests SHA-256 (a preference of 0 refuses it)."""
    preferences = _REQUESTED.findall(want_repr_digest or "")
    return bool(preferences) and int(preferences[-1]) > 0


class ReprDigests:
    """The Repr-Digest values of versions, computed when first requested."""

    def __init__(self) -> None:
        self._known: dict[Digest, str] = {}
        self._hashing = trio.Lock()

    async def of(self, lease: VerifiedLease) -> str | None:
        """Return the field's value for a leased version; None if it is too large, or not trusted at the moment."""
        if lease.size > LARGEST_BYTES:
            return None
        # One pass at a time: many requests for one version cost one pass, and many versions one core.
        async with self._hashing:
            if lease.digest not in self._known:
                value = await trio.to_thread.run_sync(_hash, lease.fileno(), lease.size)
                if value is None or not lease.trusted:
                    return None
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[lease.digest] = f"sha-256=:{value}:"
            return self._known[lease.digest]


def _hash(fd: int, size: int) -> str | None:
    """Return the base64 of a file's SHA-256; None if it no longer has that size."""
    hasher = hashlib.sha256()
    offset = 0
    while data := os.pread(fd, WINDOW_BYTES, offset):
        hasher.update(data)
        offset += len(data)
    return base64.b64encode(hasher.digest()).decode("ascii") if offset == size else None
