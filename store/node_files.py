"""Who uses a storage folder: the node's id, and the lock that makes one process its leader."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .errors import NodeFileDamaged, StorageTaken
from .filesystem import FileSystem, make_folder_durably, write_durably
from .layout import Layout

if TYPE_CHECKING:
    import os
    from types import TracebackType

HANDOVER_SECONDS = 1.0
"""How long a lock may say another address before it is believed: its holder may just be writing its own."""

_POLL_SECONDS = 0.01
_HOLDER_BYTES = 4096


def node_id(path: str | os.PathLike[str], fs: FileSystem | None = None) -> str:
    """Return the id of the node this storage folder belongs to, creating both. *Writes, the first time*.

    It is kept in `node.json` and never changes by itself: a file that does not parse raises `NodeFileDamaged`
    rather than give another id, since master and peers would take the node for another one and refuse its keys.
    """
    seam = fs or FileSystem()
    layout = Layout(Path(path))
    file = layout.root / "node.json"
    make_folder_durably(seam, layout.root)
    seam.make_folder(layout.incoming)
    with seam.folder_lock(layout.root):
        if not seam.exists(file):
            made = f"node-{secrets.token_hex(6)}"
            write_durably(seam, json.dumps({"node_id": made}).encode() + b"\n", layout.temporary(), file)
        try:
            found = json.loads(seam.read(file))
        except (ValueError, RecursionError) as error:
            raise NodeFileDamaged(str(file), str(error)) from error
    name = found.get("node_id") if isinstance(found, dict) else None
    if not isinstance(name, str) or not name:
        raise NodeFileDamaged(str(file), "it has no node_id")
    return name


class StorageLock:
    """The lock `node.lock` of a storage folder; a context manager that releases.

    All processes that serve one address share the folder, and the one that holds the lock leads: it alone talks to
    the master. The lock ends with its process, however that ends, and another may then `lead`.
    """

    def __init__(self, path: str | os.PathLike[str], fs: FileSystem | None = None) -> None:
        self._fs = fs or FileSystem()
        self._root = Path(path)
        self._file = self._root / "node.lock"
        self._fd = -1

    @property
    def leader(self) -> bool:
        """Whether this process holds the lock."""
        return self._fd >= 0

    def acquire(self, address: str, node_id: str) -> bool:
        """Return whether this process leads; False: another one of the same address does. *Writes*.

        Waits up to HANDOVER_SECONDS for a lock whose holder has not yet written its address. Raises `StorageTaken`
        when a node with another address holds it. May be asked again, to lead once the leader is gone.
        """
        deadline = time.monotonic() + HANDOVER_SECONDS
        while True:
            if self.leader or self._lead(address, node_id):
                return True
            holder = self._holder()
            if holder == address:
                return False
            if time.monotonic() >= deadline:
                raise StorageTaken(str(self._root), holder or "(not known)")
            time.sleep(_POLL_SECONDS)

    def given_up(self) -> bool:
        """Tell whether its last holder gave it up and said so; one that was killed leaves its address. *Reads*."""
        try:
            return not self._fs.read(self._file)
        except FileNotFoundError:
            return False

    def release(self, *, to_another: bool = False) -> None:
        """Give the lock up. Without it no error. `to_another`: another process of this node may take it at once."""
        if self._fd >= 0:
            # What is left in the file must not be taken for the next holder's address.
            if not to_another:
                self._fs.truncate(self._fd, 0)
            self._fs.close(self._fd)
            self._fd = -1

    def _lead(self, address: str, node_id: str) -> bool:
        make_folder_durably(self._fs, self._root)
        fd = self._fs.create(self._file)
        try:
            if not self._fs.lock(fd):
                self._fs.close(fd)
                return False
            self._fs.truncate(fd, 0)
            self._fs.write_at(fd, json.dumps({"address": address, "node_id": node_id}).encode() + b"\n", 0)
        except BaseException:
            self._fs.close(fd)
            raise
        self._fd = fd
        return True

    def _holder(self) -> str:
        """Return the address in the file, or "" while there is none that can be read."""
        try:
            found = json.loads(self._fs.read(self._file)[:_HOLDER_BYTES])
        except (ValueError, FileNotFoundError):
            return ""
        address = found.get("address") if isinstance(found, dict) else None
        return address if isinstance(address, str) else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()
