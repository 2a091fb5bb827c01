"""The life of a store on a `PowerCutDisk`, with a power cut looked at after every call it makes."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from store import (
    Chunk,
    Digest,
    DiskStore,
    FillBusy,
    Manifest,
    PackageCorrupt,
    Ref,
    StorageLock,
    VersionPresent,
    node_id,
    plan_eviction,
)
from store.refs import decode
from tests.store.powercut import PowerCutDisk
from tests.store.samples import documents, make_zip, manifest_of, package

FOLDER = Path("/var/lib/storage")
PACKAGES, MEETINGS, INCOMING = FOLDER / "packages", FOLDER / "meetings", FOLDER / "incoming"


class Violation(Exception):
    """A power cut took or spoilt something that was promised."""


@dataclass
class Promises:
    """What must be so on the disk, whatever happens from now on."""

    held: frozenset[Digest] = frozenset()  # reported as committed: complete, sound, found without being read
    gone: frozenset[Digest] = frozenset()  # reported as removed
    refs: dict[str, frozenset[Ref | None]] = field(default_factory=dict)  # what each meeting may have
    rotten: dict[Digest, frozenset[Chunk]] = field(default_factory=dict)  # what the disk itself has spoilt
    spoilt: frozenset[Digest] = frozenset()  # the same of manifests, until they are made again
    node: str = ""

    def key(self) -> object:
        return (
            self.held,
            self.gone,
            self.spoilt,
            self.node,
            frozenset(self.refs.items()),
            frozenset(self.rotten.items()),
        )


class Life:
    """What one process does to a store, and what it may promise afterwards."""

    def __init__(self, disk: PowerCutDisk, promises: Promises | None = None) -> None:
        self.disk = disk
        self.promises = promises or Promises()
        self.store: DiskStore | None = None
        self.watch: Callable[[], None] = _nothing

    def open(self, max_bytes: int = 0) -> DiskStore:
        self.store = DiskStore.open(FOLDER, max_bytes=max_bytes, fs=self.disk)
        return self.store

    def restart(self) -> DiskStore:
        assert self.store is not None
        self.store.close()
        return self.open()

    def name(self) -> None:
        name = node_id(FOLDER, self.disk)
        self._promise(node=name)

    def fill(self, data: bytes, count: int | None = None) -> None:
        """Fill a package, from what an earlier fill left if there is any; with `count`, only so many chunks of it."""
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

    def rot(self, data: bytes, index: int) -> Chunk:
        manifest = learn(data)
        chunk = manifest.chunks[index]
        self.disk.rot(PACKAGES / f"{manifest.digest}.zip", chunk.offset)
        rotten = self.promises.rotten.get(manifest.digest, frozenset()) | {chunk}
        self._promise(rotten={**self.promises.rotten, manifest.digest: rotten})
        return chunk

    def repair(self, data: bytes, chunk: Chunk) -> None:
        assert self.store is not None
        digest = learn(data).digest
        self.store.repair(digest, chunk, data[chunk.offset : chunk.offset + chunk.size])
        left = self.promises.rotten[digest] - {chunk}
        others = {d: bad for d, bad in self.promises.rotten.items() if d != digest}
        self._promise(rotten={**others, digest: left} if left else others)

    def _promise(self, **changes: object) -> None:
        self.promises = replace(self.promises, **changes)

    def _may_have(self, meeting: str, ref: Ref | None) -> None:
        before = self.promises.refs.get(meeting, frozenset([None]))
        self._promise(refs={**self.promises.refs, meeting: before | {ref}})

    def _has(self, meeting: str, ref: Ref | None) -> None:
        self._promise(refs={**self.promises.refs, meeting: frozenset([ref])})

    def adopt(self) -> None:
        """Promise what the store reports: a process that was started anew tells its master so."""
        assert self.store is not None
        self._promise(held=frozenset(v.digest for v in self.store.versions()))
        for ref in self.store.refs():
            self._has(ref.meeting_id, ref)


KNOWN: dict[Digest, tuple[bytes, Manifest]] = {}
"""Every package the tests offer a store, so that what comes back can be compared."""

_MANIFESTS: dict[bytes, Manifest] = {}


def learn(data: bytes) -> Manifest:
    manifest = _MANIFESTS.get(data)
    if manifest is None:
        manifest = _MANIFESTS[data] = manifest_of(data)
        KNOWN[manifest.digest] = (data, manifest)
    return manifest


# -- what must be so after a power cut


def check(disk: PowerCutDisk, promises: Promises, *, go_on: bool = False) -> None:
    """Open the store on what is left of a disk. Raises `Violation`, or whatever error the store lets out."""
    before = disk.files()
    for path, data in before.items():
        if Path(path).parent == MEETINGS and path.endswith(".json"):
            named = PACKAGES / f"{decode(data).digest}.zip"
            _expect(str(named) in before, f"{path} names a version of which there is nothing")
    for digest in promises.held - promises.spoilt:
        # Without it a package can only be taken whole: one bad byte, and it is lost instead of repaired.
        found = before.get(str(PACKAGES / f"{digest}.json"))
        _expect(found == KNOWN[digest][1].to_json(), "the manifest of a committed version is not there whole")
    life = Life(disk, promises)
    disk.opened.clear()
    store = life.open()
    read = {path.stem for path in disk.opened if path.suffix == ".zip"}
    _expect(not read & promises.held, "a committed package was read to start")
    try:
        _check_versions(disk, store, promises)
        _check_refs(disk, store, promises)
        _check_space(disk, store)
        _expect(not promises.node or node_id(FOLDER, disk) == promises.node, "the node has another name")
        _resume_all(disk, life)
        if go_on:
            _live_on(disk, life)
    finally:
        store.close()
    _expect(not disk._fds, "descriptors are left")


def _check_versions(disk: PowerCutDisk, store: DiskStore, promises: Promises) -> None:
    held = {version.digest: version.size for version in store.versions()}
    _expect(promises.held <= held.keys(), "a committed version is not there")
    _expect(not promises.gone & held.keys(), "a removed version is back")
    files = disk.files()
    for digest, size in held.items():
        data, manifest = KNOWN[digest]
        found = files[str(PACKAGES / f"{digest}.zip")]
        _expect(len(found) == size, "a package has another size than is told")
        _expect(store.manifest(digest) == manifest, "a manifest is wrong")
        rotten = promises.rotten.get(digest, frozenset())
        try:
            store.verify(digest)
        except PackageCorrupt as error:
            _expect(set(error.bad) <= rotten and bool(error.bad), f"a package is corrupt: {error.bad}")
        else:
            _expect(found == data, "a package that verifies is wrong")
    wanted = {f"{digest}.{suffix}" for digest in held for suffix in ("zip", "json")}
    _expect(set(disk.list(PACKAGES)) == wanted, "there is something else in packages/")


def _check_refs(disk: PowerCutDisk, store: DiskStore, promises: Promises) -> None:
    for meeting, allowed in promises.refs.items():
        _expect(store.ref(meeting) in allowed, f"meeting {meeting} has {store.ref(meeting)}")
    for ref in store.refs():
        _expect(ref.meeting_id in promises.refs, "a meeting nobody knows")
        _expect(store.holds(ref.digest), "a ref to nothing")
    _expect(len(disk.list(MEETINGS)) == len(store.refs()), "there is something else in meetings/")


def _check_space(disk: PowerCutDisk, store: DiskStore) -> None:
    files = disk.files()
    names = disk.list(INCOMING)
    parts = {Path(name).stem for name in names if name.endswith(".part")}
    extra = [name for name in names if not name.endswith((".part", ".map")) or Path(name).stem not in parts]
    _expect(not extra, f"nobody owns {extra}")
    usage = store.usage()
    filling = sum(len(files[str(INCOMING / f"{part}.part")]) for part in parts)
    stored = sum(len(data) for path, data in files.items() if path.startswith(str(PACKAGES)) and path.endswith(".zip"))
    _expect(usage.filling == filling, f"{usage.filling} bytes are counted as being filled, not {filling}")
    _expect(usage.stored == stored, f"{usage.stored} bytes are counted as stored, not {stored}")


def _resume_all(disk: PowerCutDisk, life: Life) -> None:
    for name in disk.list(INCOMING):
        if name.endswith(".part"):
            data, manifest = KNOWN[Digest(Path(name).stem)]
            life.fill(data)
            assert life.store is not None
            life.store.verify(manifest.digest)
            _expect(disk.files()[str(PACKAGES / f"{manifest.digest}.zip")] == data, "a resumed fill is wrong")
    _expect(not disk.list(INCOMING), "something is left of resumed fills")


def _live_on(disk: PowerCutDisk, life: Life) -> None:
    """Commit one more and cut the power again: what was not durable before must be by then."""
    new = package(99, 1, 700)
    life.fill(new)
    life.switch(Ref("the next", learn(new).digest))
    all_lost = next(disk.cuts(random.Random(1)))
    check(all_lost.make(), life.promises)


def _expect(right: bool, words: str) -> None:
    if not right:
        raise Violation(words)


# -- looking at all of them


class Explorer:
    """Looks at everything a power cut may leave after every call, and at a kill with a power cut after it."""

    def __init__(self, *, skip: str | None = None, extra: int = 4, again: int = 100, kills: bool = True) -> None:
        self.skip = skip
        self.extra = extra  # states picked at random after each call
        self.kills = kills
        self.again = again  # of so many states, in one the power is cut again while the store recovers
        self.counts: Counter[str] = Counter()
        self.sites: set[str] = set()
        self.sample: Callable[[PowerCutDisk, Promises], None] | None = None
        self._pick = random.Random(20261124)
        self._seen: set[object] = set()
        self.go_on = False
        self._recovering = False

    def new_disk(self) -> PowerCutDisk:
        disk = PowerCutDisk()
        disk.skip, disk.sites = self.skip, self.sites
        disk.make_folder(FOLDER.parent)
        disk.settle()
        return disk

    @contextmanager
    def watching(self, life: Life) -> Iterator[None]:
        """Look after every call in the block."""
        life.watch = life.disk.watch = lambda: self.look(life)
        try:
            yield
        finally:
            life.disk.watch = _nothing

    def run(self, script: Callable[[Life], None]) -> None:
        """Look at a whole life, from an empty disk on."""
        life = Life(self.new_disk())
        self.go_on = script is first_start  # where folders are made, what comes after depends on them
        with self.watching(life):
            script(life)
            self.look(life)

    def look(self, life: Life) -> None:
        self.counts["calls"] += 1
        self.cut_all(life.disk, life.promises, self.extra)
        if self.kills:
            self.kill(life)

    def kill(self, life: Life) -> None:
        """Kill the process, start another, let it promise what it finds, and cut the power."""
        self.counts["kills"] += 1
        after = Life(life.disk.killed(), life.promises)
        after.open()
        after.adopt()
        self.cut_all(after.disk, after.promises, 0)

    def cut_all(self, disk: PowerCutDisk, promises: Promises, extra: int) -> None:
        for cut in disk.cuts(self._pick, extra):
            key = (cut.key, promises.key())
            self.counts["cuts"] += 1
            if key in self._seen:
                continue
            self._seen.add(key)
            self.counts["states"] += 1
            left = cut.make()
            left.skip = self.skip
            if self.sample is not None:
                self.sample(left, promises)
            if self.counts["states"] % self.again == 0 and not self._recovering:
                self.cut_again(left.killed(), promises)
            try:
                check(left, promises, go_on=self.go_on)
            except Exception as error:
                raise Violation(f"{cut.story}: {error}") from error

    def cut_again(self, disk: PowerCutDisk, promises: Promises) -> None:
        """Cut the power after every call of a recovery."""
        self.counts["recoveries cut"] += 1
        disk.skip, disk.sites = self.skip, self.sites
        disk.watch = lambda: self.cut_all(disk, promises, 0)
        self._recovering = True
        try:
            Life(disk, promises).open()
        finally:
            self._recovering = False


def _nothing() -> None:
    pass


# -- the scripts


def first_start(life: Life) -> None:
    """A folder that was not there."""
    life.name()
    life.open()
    life.fill(package(1, 2, 700))


def first_lock(life: Life) -> None:
    """The same, where the leader's lock comes first."""
    with StorageLock(FOLDER, life.disk) as lock:
        assert lock.acquire("127.0.0.1:1", "n")
        life.open()
        life.fill(package(1, 1, 700))


def both_origins(life: Life) -> None:
    """A legacy origin, then one with manifests; a meeting that gets a new package, and ends."""
    members = documents(3, 700)
    old, new = make_zip(members, minute=1), make_zip({**members, "x.pdf": b"x" * 900}, minute=2)
    life.open()
    life.stream("m", old)
    life.switch(Ref("m", learn(old).digest, title="old"))
    life.fill(new)
    life.switch(Ref("m", learn(new).digest, title="new", pinned=True))
    life.drop("m")
    life.stream("m", old)  # what is here already


def half_way(life: Life) -> None:
    """Fills given up and resumed, across a restart too; one thrown away; a stream that breaks."""
    data = package(2, 4, 900)
    life.open()
    life.fill(data, 1)
    life.fill(data, 1)
    life.restart()
    life.stream("m", package(3, 2, 700), commit=False)
    life.discard(package(4, 2, 700))
    life.fill(data)
    life.switch(Ref("m", learn(data).digest))


def room_is_made(life: Life) -> None:
    """Versions are evicted by plan, with the refs that name them; a half fill gives way to another."""
    old, half, new = package(5, 2, 900), package(6, 3, 900), package(7, 5, 900)
    store = life.open(max_bytes=len(new) + len(half))
    life.fill(old)
    life.switch(Ref("ended", learn(old).digest, in_progress=False, ended_at=1.0))
    life.switch(Ref("ended too", learn(old).digest, in_progress=False, ended_at=1.0))
    life.fill(half, 1)
    life.fill(new)
    life.switch(Ref("m", learn(new).digest))
    plan = plan_eviction(store.versions(), store.refs(), store.usage(), len(half), 1e12)
    assert plan == (learn(old).digest,)
    life.remove(old)
    life.fill(half)


def bad_bytes(life: Life) -> None:
    """The disk spoils a package, which is repaired, and a manifest, which is made again."""
    data = package(8, 3, 2000)
    digest = learn(data).digest
    life.open()
    life.fill(data)
    life.switch(Ref("m", digest))
    for chunk in (life.rot(data, 0), life.rot(data, 2)):
        life.repair(data, chunk)
    life.disk.rot(PACKAGES / f"{digest}.json", 0)
    life.promises = replace(life.promises, spoilt=frozenset([digest]))
    life.restart().manifest(digest)
    life.promises = replace(life.promises, spoilt=frozenset())


def a_ref_by_another_name(life: Life) -> None:
    """Somebody renamed a ref by hand: the id inside decides."""
    data = package(9, 1, 700)
    life.open()
    life.fill(data)
    life.switch(Ref("right", learn(data).digest))
    life.disk.watch = _nothing
    life.disk.rename(MEETINGS / "right.json", MEETINGS / "wrong.json")
    life.disk.settle()
    life.disk.watch = life.watch
    life.restart()


def two_processes(explorer: Explorer) -> None:
    """While one process commits, another asks for the version after each call, and promises what it is told."""
    data = package(10, 2, 700)
    manifest = learn(data)
    for number in itertools.count(1):
        life = Life(explorer.new_disk())
        life.open()
        other = DiskStore.open(FOLDER, fs=life.disk)
        left = number

        def ask(life: Life = life, other: DiskStore = other) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                explorer.counts["calls"] += 1
                with suppress(FillBusy):
                    try:
                        other.begin_fill(manifest).discard()
                    except VersionPresent:
                        explorer.cut_all(life.disk, replace(life.promises, held=frozenset([manifest.digest])), 0)

        life.disk.watch = ask
        life.fill(data)
        if left > 0:
            return


SCRIPTS: tuple[Callable[[Life], None], ...] = (
    first_start,
    first_lock,
    a_ref_by_another_name,
    bad_bytes,
    both_origins,
    half_way,
    room_is_made,
)
