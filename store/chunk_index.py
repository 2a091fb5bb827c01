"""An index of the chunks of all packages by digest, compact enough for 100,000 chunks. Pure; the owner locks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .records import ChunkLocation

if TYPE_CHECKING:
    from .digest import Digest
    from .manifest import Manifest

_OFFSET_BITS = 64
_SIZE_BITS = 32


class ChunkIndex:
    """A dict from raw digests to locations, each packed into an int: about 250 bytes per chunk.

    A chunk in several packages has a tuple of locations, so that removing one package keeps the others.
    """

    def __init__(self) -> None:
        self._locations: dict[bytes, int | tuple[int, ...]] = {}
        self._packages: dict[int, Digest] = {}
        self._numbers: dict[Digest, int] = {}
        self._keys: dict[int, tuple[bytes, ...]] = {}  # so that removing a package does not need its manifest
        self._count = 0

    def __contains__(self, package: Digest) -> bool:
        return package in self._numbers

    def add(self, manifest: Manifest) -> None:
        """Add the chunks of a package. A package that was added already is no error."""
        if manifest.digest in self._numbers:
            return
        number = self._count
        self._count += 1
        self._packages[number] = manifest.digest
        self._numbers[manifest.digest] = number
        keys: list[bytes] = []
        for chunk in manifest.chunks:
            key = bytes.fromhex(chunk.digest)
            location = (number << _OFFSET_BITS | chunk.offset) << _SIZE_BITS | chunk.size
            known = self._locations.get(key)
            if known is None:
                self._locations[key] = location
                keys.append(key)
            elif _package(location) not in map(_package, _tuple(known)):  # one location per package is enough
                self._locations[key] = (*_tuple(known), location)
                keys.append(key)
        self._keys[number] = tuple(keys)

    def remove(self, package: Digest) -> None:
        """Remove the chunks of a package. An unknown package is no error."""
        number = self._numbers.pop(package, None)
        if number is None:
            return
        del self._packages[number]
        for key in self._keys.pop(number):
            left = tuple(location for location in _tuple(self._locations.get(key, ())) if _package(location) != number)
            if len(left) > 1:
                self._locations[key] = left
            elif left:
                self._locations[key] = left[0]
            else:
                self._locations.pop(key, None)

    def find(self, digest: Digest, besides: Digest | None = None) -> ChunkLocation | None:
        """Return a location of a chunk in any package but `besides`, or None."""
        number = -1 if besides is None else self._numbers.get(besides, -1)
        known = _tuple(self._locations.get(bytes.fromhex(digest), ()))
        location = next((location for location in reversed(known) if _package(location) != number), None)
        if location is None:
            return None
        size = location & ((1 << _SIZE_BITS) - 1)
        offset = location >> _SIZE_BITS & ((1 << _OFFSET_BITS) - 1)
        return ChunkLocation(self._packages[_package(location)], offset, size)


def _package(location: int) -> int:
    return location >> (_OFFSET_BITS + _SIZE_BITS)


def _tuple(known: int | tuple[int, ...]) -> tuple[int, ...]:
    return known if isinstance(known, tuple) else (known,)
