"""Manifests: the ordered pieces that make one version, as canonical JSON. Pure: imports no module that does I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from .digest import Digest, InvalidDigest
from .errors import StoreError

VERSION = 1
"""Version of the JSON form."""

MAX_SIZE = 2**53 - 1
"""Largest size in bytes: every JSON reader represents integers up to this one exactly."""

MAX_CHUNK_BYTES = 16 * 1024 * 1024
"""Longest chunk that a manifest may contain, since a chunk is verified in memory. Ours have at most 4 MiB."""

MAX_MANIFEST_BYTES = 64 * 1024 * 1024
"""Longest JSON that is parsed: about half a million chunks, or a package of 500 GB."""


class InvalidManifest(StoreError, ValueError):
    """A manifest that does not parse, or whose pieces do not add up to its size."""


class ChunkMismatch(StoreError):
    """The bytes passed for a chunk have the wrong length or digest. Nothing was written."""

    def __init__(self, chunk: Chunk, got_size: int) -> None:
        super().__init__(
            f"{got_size} bytes were passed for the chunk of {chunk.size} bytes at {chunk.offset}, "
            f"and they do not have its digest {chunk.digest}"
        )
        self.chunk = chunk
        self.got_size = got_size


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of a package that has its own digest. `offset` and `size` in bytes."""

    offset: int
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Literal:
    """A few bytes between chunks (zip headers, the directory), contained in the manifest itself."""

    offset: int
    data: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON object. Its fields are declared in alphabetical order, since msgspec encodes them in this order."""

    digest: str
    pieces: list[bytes | tuple[int, str]]
    size: int
    version: int


_DECODER = msgspec.json.Decoder(_Wire)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The ordered pieces that make the version `digest` of `size` bytes, without gap or overlap.

    Raises `InvalidManifest` when the pieces do not add up. `chunks` are the pieces that are chunks, in package order;
    several chunks may have the same digest.
    """

    digest: Digest
    size: int
    pieces: tuple[Chunk | Literal, ...]
    chunks: tuple[Chunk, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIZE:
            raise InvalidManifest(f"a package has 1 to {MAX_SIZE} bytes, not {str(self.size)[:40]}")
        at = 0
        for piece in self.pieces:
            size = piece.size
            if piece.offset != at:
                raise InvalidManifest(f"the piece after byte {at} begins at {piece.offset}")
            if size < 1:
                raise InvalidManifest(f"the piece at {at} is empty")
            if isinstance(piece, Chunk) and size > MAX_CHUNK_BYTES:
                raise InvalidManifest(f"the chunk at {at} is longer than {MAX_CHUNK_BYTES} bytes")
            at += size
        if at != self.size:
            raise InvalidManifest(f"the pieces make up {at} bytes of {self.size}")
        object.__setattr__(self, "chunks", tuple(p for p in self.pieces if isinstance(p, Chunk)))

    def to_json(self) -> bytes:
        """Return the canonical JSON: equal manifests give equal bytes.

        `{"digest":"<hex>","pieces":[...],"size":N,"version":1}`; a chunk is `[size,"<hex>"]`, a literal is a base64
        string, and offsets follow from the order.
        """
        pieces: list[bytes | tuple[int, str]] = [
            (p.size, str(p.digest)) if isinstance(p, Chunk) else p.data for p in self.pieces
        ]
        return msgspec.json.encode(_Wire(digest=str(self.digest), pieces=pieces, size=self.size, version=VERSION))

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Parse the JSON of `to_json`. Raises `InvalidManifest`."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise InvalidManifest(f"a manifest of {len(data)} bytes is longer than {MAX_MANIFEST_BYTES}")
        try:
            wire = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidManifest(f"not a manifest: {error}") from error
        if wire.version != VERSION:
            raise InvalidManifest(f"manifest version {str(wire.version)[:40]}; this program knows {VERSION}")
        pieces: list[Chunk | Literal] = []
        at = 0
        try:
            for piece in wire.pieces:
                if isinstance(piece, bytes):
                    pieces.append(Literal(at, piece))
                    at += len(piece)
                else:
                    size, digest = piece
                    if not 1 <= size <= MAX_CHUNK_BYTES:
                        raise InvalidManifest(f"the chunk at {at} has an impossible size")
                    pieces.append(Chunk(at, size, Digest(digest)))
                    at += size
            return cls(Digest(wire.digest), wire.size, tuple(pieces))
        except InvalidDigest as error:
            raise InvalidManifest(str(error)) from error


def verified_bytes(piece: Chunk | Literal, data: bytes | bytearray | memoryview) -> memoryview:
    """Return a view of `data` if it is the content of a piece.

    Raises `ChunkMismatch` for a chunk, `ValueError` for a literal.
    """
    view = memoryview(data)
    if isinstance(piece, Chunk):
        if view.nbytes != piece.size or Digest.of(view) != piece.digest:
            raise ChunkMismatch(piece, view.nbytes)
    elif view != piece.data:
        raise ValueError(f"these are not the bytes of the literal at {piece.offset}")
    return view
