"""The refs of a storage folder, in memory as on the disk. Its owner lets one thread at a time change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .filesystem import write_durably
from .refs import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .filesystem import FileSystem
    from .interface import Ref
    from .layout import Layout


class RefTable:
    """Refs by meeting. The table is replaced whole, so that readers need no lock.

    Whoever writes holds the lock of the folder, and so do other processes.
    """

    def __init__(self, fs: FileSystem, layout: Layout) -> None:
        self._fs = fs
        self._layout = layout
        self._refs: Mapping[str, Ref] = {}

    def get(self, meeting_id: str) -> Ref | None:
        """Return a meeting's ref."""
        return self._refs.get(meeting_id)

    def all(self) -> Sequence[Ref]:
        """Return all refs."""
        return tuple(self._refs.values())

    def replace(self, found: Mapping[str, Ref]) -> None:
        """Take over what was found on the disk."""
        self._refs = found

    def set(self, ref: Ref) -> None:
        """Switch a meeting, atomically and durably."""
        with self._fs.folder_lock(self._layout.meetings):
            self._set(ref)

    def change(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        """Make of the ref on the disk what `change` makes of it; see `interface.Store.change_ref`."""
        with self._fs.folder_lock(self._layout.meetings):
            before = self._read(meeting_id)
            after = change(before)
            if after is None or after == before:
                return before
            self._set(after)
            return after

    def _read(self, meeting_id: str) -> Ref | None:
        try:
            found = decode(self._fs.read(self._layout.ref(meeting_id)))
        except FileNotFoundError:
            return None
        except ValueError:  # the next opening puts it aside, in words
            return self.get(meeting_id)
        return found if found.meeting_id == meeting_id else self.get(meeting_id)

    def take(self, ref: Ref) -> None:
        """Take over one ref that was found on the disk."""
        self._refs = {**self._refs, ref.meeting_id: ref}

    def _set(self, ref: Ref) -> None:
        write_durably(self._fs, encode(ref), self._layout.temporary(), self._layout.ref(ref.meeting_id))
        self._refs = {**self._refs, ref.meeting_id: ref}

    def drop(self, meeting_id: str) -> None:
        """Forget a meeting, durably. An unknown one is no error."""
        if meeting_id not in self._refs:
            return
        with self._fs.folder_lock(self._layout.meetings):
            self._fs.unlink(self._layout.ref(meeting_id))
            self._fs.sync_folder(self._layout.meetings)
        self._refs = {other: ref for other, ref in self._refs.items() if other != meeting_id}
