"""The files of a node in its storage folder: its id, and the lock that keeps other nodes out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .errors import StoreError
from .files import make_folder_durably, write_durably
from .filesystem import FileSystem
from .layout import Layout

if TYPE_CHECKING:
    from types import TracebackType


class StorageTaken(StoreError):
    """Another process holds the lock of the storage folder.

    `address` and `pid` are those of the holder, None if it has not written them yet; `ends_within` is the number of
    seconds in which it ends, None unless it is ending.
    """

    def __init__(self, path: str, address: str | None, pid: int | None, ends_within: float | None = None) -> None:
        process = "" if pid is None else f" (process {pid})"
        holder = "another process" if address is None else f"the node at {address}{process}"
        super().__init__(
            f"the storage folder {path} is in use by {holder}: a node is one process, so leave out --workers (-w) of "
            "hypercorn, and to use more cores run several nodes, each with its own port and storage folder"
        )
        self.path = path
        self.address = address
        self.pid = pid
        self.ends_within = ends_within


class NodeFileDamaged(StoreError):
    """`node.json` holds no valid node id. A new id is not generated, since it would make this a different node."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f'{path} is damaged ({reason}); put the node\'s id back as {{"node_id":"..."}}, '
            "or remove the file to make this a new node with a new id"
        )
        self.path = path
        self.reason = reason


def node_id(path: str | os.PathLike[str], fs: FileSystem | None = None) -> str:
    """Return the id of the node that a storage folder belongs to, creating both. *Writes, the first time*.

    The id is kept in `node.json` and never changes. A file that does not parse raises `NodeFileDamaged`: with a new id,
    the master and other nodes would treat this node as a different one.
    """
    fs = fs or FileSystem()
    layout = Layout(Path(path))
    file = layout.root / "node.json"
    make_folder_durably(fs, layout.root)
    fs.make_folder(layout.incoming)
    with fs.folder_lock(layout.root):
        if not fs.exists(file):
            made = f"node-{os.urandom(6).hex()}"
            write_durably(fs, json.dumps({"node_id": made}).encode() + b"\n", layout.temporary(), file)
        try:
            found = json.loads(fs.read(file))
        except (ValueError, RecursionError) as error:
            raise NodeFileDamaged(str(file), str(error)) from error
    name = found.get("node_id") if isinstance(found, dict) else None
    if not isinstance(name, str) or not name:
        raise NodeFileDamaged(str(file), "it has no node_id")
    return name


class StorageLock:
    """The lock `node.lock` of a storage folder, which one node at a time may use; a context manager that releases.

    The lock ends with its process, however that ends.
    """

    def __init__(self, path: str | os.PathLike[str], fs: FileSystem | None = None) -> None:
        self._fs = fs or FileSystem()
        self._root = Path(path)
        self._file = self._root / "node.lock"
        self._fd = -1
        self._holder: dict[str, object] = {}

    def acquire(self, address: str, node_id: str) -> None:
        """Take the lock, creating the folder, and write into its file who holds it. Does not wait. *Writes*.

        Raises `StorageTaken` when the lock is held, be it by this process, and `OSError`.
        """
        make_folder_durably(self._fs, self._root)
        fd = self._fs.create(self._file)
        try:
            if not self._fs.lock(fd):
                raise StorageTaken(str(self._root), *self._read_holder())
            self._holder = {"address": address, "node_id": node_id, "pid": os.getpid()}
            self._fs.truncate(fd, 0)
            self._fs.write_at(fd, json.dumps(self._holder).encode() + b"\n", 0)
        except BaseException:
            self._fs.close(fd)
            raise
        self._fd = fd

    def set_ending(self, seconds: float) -> None:
        """Write that this process ends within `seconds`, so that the next holder waits for it. *Writes*.

        Does nothing if the lock is not held. Raises `OSError`.
        """
        if self._fd >= 0:
            ending = {**self._holder, "ends_within": seconds}
            self._fs.write_at(self._fd, json.dumps(ending).encode() + b"\n", 0)

    def find_holder(self) -> StorageTaken | None:
        """Return who holds the lock, or None if it is free. Raises `OSError`; `FileNotFoundError` before its first use.

        A free lock is held for a moment.
        """
        fd = self._fs.open(self._file)
        try:
            return None if self._fs.lock(fd) else StorageTaken(str(self._root), *self._read_holder())
        finally:
            self._fs.close(fd)

    def release(self) -> None:
        """Give the lock back. Releasing a lock that is not held is no error."""
        if self._fd >= 0:
            self._fs.truncate(self._fd, 0)  # so that nobody takes this process for the next holder
            self._fs.close(self._fd)
            self._fd = -1

    def _read_holder(self) -> tuple[str | None, int | None, float | None]:
        """Return address and process id of the holder, and when it ends; None for what it has not written yet."""
        try:
            found = json.loads(self._fs.read(self._file))
        except (ValueError, FileNotFoundError):
            return None, None, None
        fields = found if isinstance(found, dict) else {}
        address, pid, ends = fields.get("address"), fields.get("pid"), fields.get("ends_within")
        return (
            address if isinstance(address, str) else None,
            pid if isinstance(pid, int) else None,
            ends if isinstance(ends, (int, float)) else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()
