"""The refs of a storage folder: their JSON files, and a table of them in memory."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import msgspec

from .digest import Digest
from .files import write_durably
from .records import Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .filesystem import FileSystem
    from .layout import Layout


def encode(ref: Ref) -> bytes:
    """Return a ref as JSON. Not by msgspec: an id may be any string, lone surrogates included."""
    return json.dumps(asdict(ref), sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def decode(data: bytes) -> Ref:
    """Parse the JSON of `encode`, ignoring fields that a newer version may have added.

    Raises `ValueError` with the reason.
    """
    try:
        return msgspec.convert(json.loads(data), Ref, dec_hook=lambda _, text: Digest(text))
    except (ValueError, RecursionError) as error:  # the errors of json and msgspec are `ValueError`s
        raise ValueError(f"not a ref: {error}") from error


class RefTable:
    """Refs by meeting, in memory as on the disk. The mapping is replaced whole, so that readers need no lock.

    The owner lets one thread at a time change it; a lock on the folder keeps other processes out meanwhile.
    """

    def __init__(self, fs: FileSystem, layout: Layout) -> None:
        self._fs = fs
        self._layout = layout
        self._refs: Mapping[str, Ref] = {}

    def get(self, meeting_id: str) -> Ref | None:
        """Return a meeting's ref, or None."""
        return self._refs.get(meeting_id)

    def all(self) -> Sequence[Ref]:
        """Return all refs, in no order."""
        return tuple(self._refs.values())

    def replace(self, refs: Mapping[str, Ref]) -> None:
        """Replace all refs by those that were read from the disk."""
        self._refs = refs

    def take(self, ref: Ref) -> None:
        """Add or replace one ref that was read from the disk."""
        self._refs = {**self._refs, ref.meeting_id: ref}

    def set(self, ref: Ref) -> None:
        """Write a ref, atomically and durably."""
        with self._fs.folder_lock(self._layout.meetings):
            self._write(ref)

    def change(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        """Read a ref from the disk, pass it to `change`, and write what that returns; see `Store.change_ref`."""
        with self._fs.folder_lock(self._layout.meetings):
            before = self._read(meeting_id)
            after = change(before)
            if after is None or after == before:
                return before
            self._write(after)
            return after

    def drop(self, meeting_id: str) -> None:
        """Remove a meeting's ref, durably. An unknown meeting is no error."""
        if meeting_id not in self._refs:
            return
        with self._fs.folder_lock(self._layout.meetings):
            self._fs.unlink(self._layout.ref(meeting_id))
            self._fs.sync_folder(self._layout.meetings)
        self._refs = {other: ref for other, ref in self._refs.items() if other != meeting_id}

    def _read(self, meeting_id: str) -> Ref | None:
        try:
            found = decode(self._fs.read(self._layout.ref(meeting_id)))
        except FileNotFoundError:
            return None
        except ValueError:  # the next opening of the store renames and logs the damaged file
            return self.get(meeting_id)
        return found if found.meeting_id == meeting_id else self.get(meeting_id)

    def _write(self, ref: Ref) -> None:
        write_durably(self._fs, encode(ref), self._layout.temporary(), self._layout.ref(ref.meeting_id))
        self.take(ref)
