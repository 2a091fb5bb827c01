"""Refs as the JSON files they are kept in. Pure."""

from __future__ import annotations

import json

import msgspec

from .digest import Digest
from .errors import InvalidDigest
from .interface import Ref


class _RefFile(msgspec.Struct):
    """What a file in `meetings/` says; what a newer program adds is ignored."""

    meeting_id: str
    digest: str
    title: str = ""
    in_progress: bool = True
    pinned: bool = False
    switched_at: float = 0.0
    ended_at: float = 0.0


def encode(ref: Ref) -> bytes:
    """Return a ref as JSON. Not by msgspec: an id may be any string, lone surrogates included."""
    fields = {name: getattr(ref, name) for name in _RefFile.__struct_fields__}
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def decode(data: bytes) -> Ref:
    """Parse what `encode` wrote. Raises `ValueError` in words for anything else."""
    try:
        found = msgspec.convert(json.loads(data), _RefFile)
        return Ref(
            found.meeting_id,
            Digest(found.digest),
            found.title,
            found.in_progress,
            found.pinned,
            found.switched_at,
            found.ended_at,
        )
    except (ValueError, RecursionError, msgspec.ValidationError, InvalidDigest) as error:
        raise ValueError(f"not a ref: {error}") from error
