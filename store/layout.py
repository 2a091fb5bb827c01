"""Where things lie in a storage folder, and how a meeting's id becomes a file name. Pure: touches no disk."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from .digest import Digest
from .errors import InvalidDigest

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "trionode storage 1"
"""What the file `format` says. Any change that an older program would misread gets another number."""

QUOTED_BYTES = 200
"""A longer quoted id does not surely fit in a file name (255 bytes), so its digest is the name."""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_NAME = re.compile(r"([0-9a-f]{64})\.([a-z]+)", re.ASCII)


def quote(meeting_id: str) -> str:
    """Return a file name, without suffix, for any id at all: no two ids share one, and none is special.

    Every byte of its UTF-8 outside [A-Za-z0-9_-] becomes %XX. An empty id, or one that grows over QUOTED_BYTES,
    becomes "~" and its digest, which no quoted id can be.
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
        """Return where a committed package is."""
        return self.packages / f"{digest}.zip"

    def manifest(self, digest: Digest) -> Path:
        """Return where its manifest is."""
        return self.packages / f"{digest}.json"

    def ref(self, meeting_id: str) -> Path:
        """Return where a meeting's ref is."""
        return self.meetings / f"{quote(meeting_id)}.json"

    def part(self, digest: Digest) -> Path:
        """Return the file of a fill; its lock is the fill's."""
        return self.incoming / f"{digest}.part"

    def map(self, digest: Digest) -> Path:
        """Return the map of what is verified in a fill."""
        return self.incoming / f"{digest}.map"

    def stream(self, name: str) -> Path:
        """Return the file of a stream; its lock is the stream's."""
        return self.incoming / f"{Digest.of(name.encode('utf-8', 'surrogatepass'))}.stream"

    def temporary(self) -> Path:
        """Return a name for a file to be renamed, that no other file of any process on any machine has."""
        return self.incoming / f"{uuid.uuid4().hex}.tmp"


def parse_name(name: str) -> tuple[Digest, str] | None:
    """Return the digest and the suffix (without dot) of a name like `<digest>.zip`, or None for any other."""
    found = _NAME.fullmatch(name)
    try:
        return (Digest(found[1]), found[2]) if found else None
    except InvalidDigest:
        return None
