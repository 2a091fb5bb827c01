"""A content-addressed store of packages on one disk, usable alone: plain synchronous Python."""

from __future__ import annotations

from .digest import Digest
from .disk import DiskStore
from .errors import (
    ChunkMismatch,
    FillBusy,
    InvalidDigest,
    InvalidManifest,
    NeverFits,
    NodeFileDamaged,
    NoSpace,
    PackageChanged,
    PackageCorrupt,
    PackageRejected,
    StorageTaken,
    StoreError,
    UnknownFormat,
    VersionMissing,
    VersionPresent,
)
from .interface import ChunkLocation, Fill, Lease, Readable, Ref, Scanned, Store, StreamFill, Usage, Version
from .manifest import Chunk, Literal, Manifest
from .memory import MemoryStore
from .node_files import StorageLock, node_id
from .reading import split_fd, split_file
from .space import plan_eviction

__all__ = [
    "Chunk",
    "ChunkLocation",
    "ChunkMismatch",
    "Digest",
    "DiskStore",
    "Fill",
    "FillBusy",
    "InvalidDigest",
    "InvalidManifest",
    "Lease",
    "Literal",
    "Manifest",
    "MemoryStore",
    "NeverFits",
    "NoSpace",
    "NodeFileDamaged",
    "PackageChanged",
    "PackageCorrupt",
    "PackageRejected",
    "Readable",
    "Ref",
    "Scanned",
    "StorageLock",
    "StorageTaken",
    "Store",
    "StoreError",
    "StreamFill",
    "UnknownFormat",
    "Usage",
    "Version",
    "VersionMissing",
    "VersionPresent",
    "node_id",
    "plan_eviction",
    "split_fd",
    "split_file",
]
