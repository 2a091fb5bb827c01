"""The findings of `trionode verify`, one for each version."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from store import Literal

if TYPE_CHECKING:
    from store import Chunk, Digest

RIGHT, DAMAGED, REPAIRED, DROPPED = "right", "damaged", "repaired", "dropped"


@dataclass(slots=True)
class Finding:
    """The result for one version: its `state`, its bad pieces, and the reason for display."""

    digest: Digest
    size: int
    state: str = RIGHT
    bad: list[Chunk | Literal] = field(default_factory=list)
    reason: str = ""

    def row(self) -> dict[str, object]:
        """Return the finding for JSON."""
        kinds = ["literal" if isinstance(piece, Literal) else "chunk" for piece in self.bad]
        bad = [{"kind": k, "offset": p.offset, "size": p.size} for k, p in zip(kinds, self.bad, strict=True)]
        return {
            "digest": self.digest,
            "size": self.size,
            "state": self.state,
            "bad": bad,
            "reason": self.reason or None,
        }
