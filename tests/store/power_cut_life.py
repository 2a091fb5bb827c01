"""The use of a store on a `PowerCutDisk`, and what must hold after a power cut at any moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from store import (
    Chunk,
    Digest,
    Manifest,
    Ref,
    Store,
    node_id,
)
from tests.store.power_cut_disk import PowerCutDisk
from tests.store.samples import manifest_of

FOLDER = Path("/var/lib/storage")
PACKAGES, MEETINGS, INCOMING = FOLDER / "packages", FOLDER / "meetings", FOLDER / "incoming"


@dataclass
class Promises:
    """What must hold on the disk after any power cut from now on."""

    held: frozenset[Digest] = frozenset()  # reported as committed: complete, intact, found without being read
    gone: frozenset[Digest] = frozenset()  # reported as removed
    refs: dict[str, frozenset[Ref | None]] = field(default_factory=dict)  # the refs that each meeting may have
    damaged: dict[Digest, frozenset[Chunk]] = field(default_factory=dict)  # chunks that the disk has damaged
    damaged_manifests: frozenset[Digest] = frozenset()  # versions whose manifest the disk has damaged
    node: str = ""

    def key(self) -> object:
        return (
            self.held,
            self.gone,
            self.damaged_manifests,
            self.node,
            frozenset(self.refs.items()),
            frozenset(self.damaged.items()),
        )


class Life:
    """Uses a store as a node does, and records what must hold afterwards."""

    def __init__(self, disk: PowerCutDisk, promises: Promises | None = None) -> None:
        self.disk = disk
        self.promises = promises or Promises()
        self.store: Store | None = None
        self.watch: Callable[[], None] = do_nothing

    def open(self, max_bytes: int = 0) -> Store:
        self.store = Store.open(FOLDER, max_bytes=max_bytes, fs=self.disk)
        return self.store

    def restart(self) -> Store:
        assert self.store is not None
        self.store.close()
        return self.open()

    def name(self) -> None:
        name = node_id(FOLDER, self.disk)
        self._promise(node=name)

    def fill(self, data: bytes, count: int | None = None) -> None:
        """Fill a package, resuming an earlier fill; with `count`, write only so many chunks and park it."""
        assert self.store is not None
        manifest = learn(data)
        self._promise(gone=self.promises.gone - {manifest.digest})
        fill = self.store.begin_fill(manifest)
        for chunk in fill.missing()[:count]:
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        if count is None:
            fill.commit()
            self._promise(held=self.promises.held | {manifest.digest})
        fill.close()

    def discard(self, data: bytes) -> None:
        assert self.store is not None
        fill = self.store.begin_fill(learn(data))
        for chunk in fill.missing()[:1]:
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        fill.discard()

    def stream(self, name: str, data: bytes, *, commit: bool = True) -> None:
        assert self.store is not None
        manifest = learn(data)
        self._promise(gone=self.promises.gone - {manifest.digest})
        stream = self.store.begin_stream(name)
        for start in range(0, len(data), 1500):
            stream.append(data[start : start + 1500])
        if commit:
            assert stream.commit() == manifest
            self._promise(held=self.promises.held | {manifest.digest})
        stream.close()

    def switch(self, ref: Ref) -> None:
        assert self.store is not None
        self._may_have(ref.meeting_id, ref)
        self.store.set_ref(ref)
        self._has(ref.meeting_id, ref)

    def drop(self, meeting_id: str) -> None:
        assert self.store is not None
        self._may_have(meeting_id, None)
        self.store.drop_ref(meeting_id)
        self._has(meeting_id, None)

    def remove(self, data: bytes) -> None:
        assert self.store is not None
        digest = learn(data).digest
        named = [ref.meeting_id for ref in self.store.refs() if ref.digest == digest]
        for meeting in named:
            self._may_have(meeting, None)
        self._promise(held=self.promises.held - {digest})
        self.store.remove(digest)
        for meeting in named:
            self._has(meeting, None)
        self._promise(gone=self.promises.gone | {digest})

    def damage(self, data: bytes, index: int) -> Chunk:
        manifest = learn(data)
        chunk = manifest.chunks[index]
        self.disk.damage(PACKAGES / f"{manifest.digest}.zip", chunk.offset)
        damaged = self.promises.damaged.get(manifest.digest, frozenset()) | {chunk}
        self._promise(damaged={**self.promises.damaged, manifest.digest: damaged})
        return chunk

    def repair(self, data: bytes, chunk: Chunk) -> None:
        assert self.store is not None
        digest = learn(data).digest
        self.store.repair(digest, chunk, data[chunk.offset : chunk.offset + chunk.size])
        left = self.promises.damaged[digest] - {chunk}
        others = {d: bad for d, bad in self.promises.damaged.items() if d != digest}
        self._promise(damaged={**others, digest: left} if left else others)

    def _promise(self, **changes: object) -> None:
        self.promises = replace(self.promises, **changes)

    def _may_have(self, meeting: str, ref: Ref | None) -> None:
        before = self.promises.refs.get(meeting, frozenset([None]))
        self._promise(refs={**self.promises.refs, meeting: before | {ref}})

    def _has(self, meeting: str, ref: Ref | None) -> None:
        self._promise(refs={**self.promises.refs, meeting: frozenset([ref])})

    def adopt(self) -> None:
        """Promise what the store reports: a restarted node reports it to its master."""
        assert self.store is not None
        self._promise(held=frozenset(v.digest for v in self.store.versions()))
        for ref in self.store.refs():
            self._has(ref.meeting_id, ref)


KNOWN: dict[Digest, tuple[bytes, Manifest]] = {}
"""Every package that the tests store, to compare what is read back."""

_MANIFESTS: dict[bytes, Manifest] = {}


def learn(data: bytes) -> Manifest:
    manifest = _MANIFESTS.get(data)
    if manifest is None:
        manifest = _MANIFESTS[data] = manifest_of(data)
        KNOWN[manifest.digest] = (data, manifest)
    return manifest


def do_nothing() -> None:
    pass
