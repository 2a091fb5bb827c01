"""A content-addressed store of packages on one disk. Usable alone: plain synchronous Python."""

from __future__ import annotations

from .buffered_reader import PackageChanged
from .digest import Digest, InvalidDigest
from .errors import StoreError
from .eviction import plan_eviction
from .filesystem import ReadStopped
from .fill import Fill
from .manifest import Chunk, ChunkMismatch, InvalidManifest, Literal, Manifest
from .node_files import NodeFileDamaged, StorageLock, StorageTaken, node_id
from .package_table import Lease
from .quota import NeverFits, NoSpace
from .reading import check_fd, count_files, split_fd, split_file
from .records import (
    ChunkLocation,
    PackageCorrupt,
    Readable,
    Ref,
    ScanStep,
    Usage,
    Version,
    VersionMissing,
    VersionPresent,
    age_of,
)
from .recovery import UnknownFormat
from .staged_file import FillBusy
from .store import Store
from .stream_fill import StreamFill
from .zip_directory import PackageRejected

__all__ = [
    "Chunk",
    "ChunkLocation",
    "ChunkMismatch",
    "Digest",
    "Fill",
    "FillBusy",
    "InvalidDigest",
    "InvalidManifest",
    "Lease",
    "Literal",
    "Manifest",
    "NeverFits",
    "NoSpace",
    "NodeFileDamaged",
    "PackageChanged",
    "PackageCorrupt",
    "PackageRejected",
    "ReadStopped",
    "Readable",
    "Ref",
    "ScanStep",
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
    "age_of",
    "check_fd",
    "count_files",
    "node_id",
    "plan_eviction",
    "split_fd",
    "split_file",
]
