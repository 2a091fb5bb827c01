"""The paths in a storage folder, and the quoting of meeting ids as file names. Pure: touches no disk."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from .digest import Digest, InvalidDigest

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "trionode storage 1"
"""Content of the file `format`. The number is increased by every change that an older program would misread."""

QUOTED_BYTES = 200
"""Longest quoted id in bytes: a file name has at most 255, suffixes included. A longer id is replaced by its digest."""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_NAME = re.compile(r"([0-9a-f]{64})\.([a-z]+)", re.ASCII)


def quote(meeting_id: str) -> str:
    """Return a safe file name, without suffix, for any id; different ids have different names.

    Every byte of its UTF-8 outside [A-Za-z0-9_-] becomes %XX. An empty id, or one whose quoted form is longer than
    QUOTED_BYTES, becomes "~" and its digest; no quoted id contains "~".
    """
    raw = meeting_id.encode("utf-8", "surrogatepass")
    quoted = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw[: QUOTED_BYTES + 1])
    if not raw or len(quoted) > QUOTED_BYTES:
        return f"~{Digest.of(raw)}"
    return quoted


class Layout:
    """The paths of one storage folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.packages = root / "packages"
        self.meetings = root / "meetings"
        self.incoming = root / "incoming"
        self.format = root / "format"

    def package(self, digest: Digest) -> Path:
        """Return the path of a committed package."""
        return self.packages / f"{digest}.zip"

    def manifest(self, digest: Digest) -> Path:
        """Return the path of a committed package's manifest."""
        return self.packages / f"{digest}.json"

    def ref(self, meeting_id: str) -> Path:
        """Return the path of a meeting's ref."""
        return self.meetings / f"{quote(meeting_id)}.json"

    def part(self, digest: Digest) -> Path:
        """Return the path of a fill's file; its lock is the lock of the fill."""
        return self.incoming / f"{digest}.part"

    def stream(self, name: str) -> Path:
        """Return the path of a stream's file; its lock is the lock of the stream."""
        return self.incoming / f"{Digest.of(name.encode('utf-8', 'surrogatepass'))}.stream"

    def temporary(self) -> Path:
        """Return a unique path for a file that will be renamed."""
        return self.incoming / f"{uuid.uuid4().hex}.tmp"


def parse_name(name: str) -> tuple[Digest, str] | None:
    """Return the digest and the suffix (without dot) of a name like `<digest>.zip`, or None for other names."""
    found = _NAME.fullmatch(name)
    try:
        return (Digest(found[1]), found[2]) if found else None
    except InvalidDigest:
        return None
