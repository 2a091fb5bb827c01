"""Manifests: the ordered pieces that make one version, as canonical JSON. Pure: imports no module that does I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .digest import Digest


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of a package with a digest of its own. `offset` and `size` in bytes."""

    offset: int
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Literal:
    """A few bytes between chunks (zip headers, directory), carried inside the manifest."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """The ordered pieces that make the version `digest` of `size` bytes, without gap or overlap."""

    digest: Digest
    size: int
    pieces: tuple[Chunk | Literal, ...]

    def to_json(self) -> bytes:
        """Return the canonical JSON: the same manifest always gives the same bytes."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Parse what `to_json` wrote. Raises `InvalidManifest` for anything whose pieces do not add up."""
        raise NotImplementedError
