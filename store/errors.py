"""What can go wrong in the store, typed and with fields. Pure; no HTTP codes here: the edge maps these to answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .digest import Digest
    from .manifest import Chunk


class StoreError(Exception):
    """Base of every error the store raises on purpose."""


class InvalidDigest(StoreError, ValueError):
    """`text` is not 64 lower-case hexadecimal digits."""

    def __init__(self, text: object) -> None:
        super().__init__(f"not a BLAKE3 digest (64 lower-case hexadecimal digits): {str(text)[:80]!r}")
        self.text = text


class InvalidManifest(StoreError, ValueError):
    """A manifest that does not parse, or whose pieces do not make up the size it states."""


class VersionMissing(StoreError, LookupError):
    """No committed package has this digest."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"no package {digest} is stored here")
        self.digest = digest


class VersionPresent(StoreError):
    """A fill was asked for a version that is committed already."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"package {digest} is stored already")
        self.digest = digest


class FillBusy(StoreError):
    """Another process, or another fill of this one, is filling this version: its lock is held."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is being filled already")
        self.name = name


class ChunkMismatch(StoreError):
    """Bytes offered for a chunk are not the chunk's: wrong length or wrong digest. Nothing was written."""

    def __init__(self, chunk: Chunk, got_size: int) -> None:
        super().__init__(
            f"{got_size} bytes were offered for the chunk of {chunk.size} bytes at {chunk.offset}, "
            f"and they do not have its digest {chunk.digest}"
        )
        self.chunk = chunk
        self.got_size = got_size


class PackageCorrupt(StoreError):
    """A committed package, or an assembled one, does not have the digest it is named by.

    `bad` holds the chunks that failed; empty when only the whole failed.
    """

    def __init__(self, digest: Digest, bad: tuple[Chunk, ...] = ()) -> None:
        super().__init__(f"package {digest} is corrupt: {len(bad)} bad chunks")
        self.digest = digest
        self.bad = bad


class PackageRejected(StoreError):
    """A streamed body is no package: empty, cut short, not a zip, or a zip that holds only ERROR.txt."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a package: {reason}")
        self.reason = reason


class NoSpace(StoreError):
    """Not now: the bytes would fit if something else were evicted or finished. Nothing was written."""

    def __init__(self, needed: int, available: int) -> None:
        super().__init__(f"{needed} bytes are needed and {available} are available")
        self.needed = needed
        self.available = available


class NeverFits(NoSpace):
    """Larger than everything this store may hold: evicting would not help, so nothing is evicted."""


class StorageTaken(StoreError):
    """Another node, with another address, uses this storage folder."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(f"the storage folder {path} is taken by the node at {holder}")
        self.path = path
        self.holder = holder


class UnknownFormat(StoreError):
    """The storage folder was written by a program whose layout this one does not know."""

    def __init__(self, path: str, found: str, known: str) -> None:
        super().__init__(f"{path} holds storage format {found!r}; this program knows {known!r} only")
        self.path = path
        self.found = found
        self.known = known


class PackageChanged(StoreError):
    """A file was cut short or written to while it was read, so nothing true can be said about its bytes."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the package changed while it was read: {reason}")
        self.reason = reason


class NodeFileDamaged(StoreError):
    """`node.json` does not say what this node is called, and inventing another name would make it another node."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f'{path} is damaged ({reason}); put the node\'s id back as {{"node_id":"..."}}, '
            "or remove the file to let this node become a new one"
        )
        self.path = path
        self.reason = reason
