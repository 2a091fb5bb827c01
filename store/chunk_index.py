"""Where chunks lie, by digest, over all packages: small enough for 100,000 of them. Pure; its owner locks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .interface import ChunkLocation

if TYPE_CHECKING:
    from .digest import Digest
    from .manifest import Manifest

_OFFSET_BITS = 64
_SIZE_BITS = 32


class ChunkIndex:
    """One dict from raw digests to places, each packed into an int: some 250 bytes for a chunk.

    A chunk that lies in several packages has a tuple of places, so that removing one package keeps the others.
    """

    def __init__(self) -> None:
        self._places: dict[bytes, int | tuple[int, ...]] = {}
        self._packages: dict[int, Digest] = {}
        self._numbers: dict[Digest, int] = {}
        self._keys: dict[int, tuple[bytes, ...]] = {}  # so that removing needs no manifest, which may be gone
        self._count = 0

    def __contains__(self, package: Digest) -> bool:
        return package in self._numbers

    def add(self, manifest: Manifest) -> None:
        """Count a package's chunks as lying there. One that is counted already is no error."""
        if manifest.digest in self._numbers:
            return
        number = self._count
        self._count += 1
        self._packages[number] = manifest.digest
        self._numbers[manifest.digest] = number
        keys: list[bytes] = []
        for chunk in manifest.chunks:
            key = bytes.fromhex(chunk.digest)
            place = (number << _OFFSET_BITS | chunk.offset) << _SIZE_BITS | chunk.size
            there = self._places.get(key)
            if there is None:
                self._places[key] = place
                keys.append(key)
            elif _package(place) not in map(_package, _tuple(there)):  # once for a package is enough
                self._places[key] = (*_tuple(there), place)
                keys.append(key)
        self._keys[number] = tuple(keys)

    def remove(self, package: Digest) -> None:
        """Forget a package's chunks. One that is not counted is no error."""
        number = self._numbers.pop(package, None)
        if number is None:
            return
        del self._packages[number]
        for key in self._keys.pop(number):
            left = tuple(place for place in _tuple(self._places.get(key, ())) if _package(place) != number)
            if len(left) > 1:
                self._places[key] = left
            elif left:
                self._places[key] = left[0]
            else:
                self._places.pop(key, None)

    def find(self, digest: Digest, besides: Digest | None = None) -> ChunkLocation | None:
        """Return where a chunk lies, in whatever package but `besides`, or None."""
        number = -1 if besides is None else self._numbers.get(besides, -1)
        there = _tuple(self._places.get(bytes.fromhex(digest), ()))
        place = next((place for place in reversed(there) if _package(place) != number), None)
        if place is None:
            return None
        size = place & ((1 << _SIZE_BITS) - 1)
        offset = place >> _SIZE_BITS & ((1 << _OFFSET_BITS) - 1)
        return ChunkLocation(self._packages[_package(place)], offset, size)


def _package(place: int) -> int:
    return place >> (_OFFSET_BITS + _SIZE_BITS)


def _tuple(there: int | tuple[int, ...]) -> tuple[int, ...]:
    return there if isinstance(there, tuple) else (there,)
