"""Check a store after a power cut."""

from __future__ import annotations

import random
from pathlib import Path

from store import (
    Digest,
    PackageCorrupt,
    Ref,
    Store,
    node_id,
)
from store.refs import decode
from tests.store.power_cut_disk import PowerCutDisk
from tests.store.power_cut_life import FOLDER, INCOMING, KNOWN, MEETINGS, PACKAGES, Life, Promises, learn
from tests.store.power_cut_states import cuts
from tests.store.samples import package


class Violation(Exception):
    """A power cut has lost or damaged something that was promised."""


def check(disk: PowerCutDisk, promises: Promises, *, continue_use: bool = False) -> None:
    """Open a store on what is left of a disk, and check it. Raises `Violation`, or any error of the store."""
    before = disk.files()
    for path, data in before.items():
        if Path(path).parent == MEETINGS and path.endswith(".json"):
            named = PACKAGES / f"{decode(data).digest}.zip"
            _expect(str(named) in before, f"{path} names a version that is not there")
    for digest in promises.held - promises.damaged_manifests:
        # Without its manifest a package cannot be repaired: one bad byte, and all of it is lost.
        found = before.get(str(PACKAGES / f"{digest}.json"))
        _expect(found == KNOWN[digest][1].to_json(), "the manifest of a committed version is missing or incomplete")
    life = Life(disk, promises)
    disk.opened.clear()
    store = life.open()
    read = {path.stem for path in disk.opened if path.suffix == ".zip"}
    _expect(not read & promises.held, "a committed package was read while opening")
    try:
        _check_versions(disk, store, promises)
        _check_refs(disk, store, promises)
        _check_space(disk, store)
        _expect(not promises.node or node_id(FOLDER, disk) == promises.node, "the node has another id")
        _resume_all(disk, life)
        if continue_use:
            _commit_more(disk, life)
    finally:
        store.close()
    _expect(not disk._fds, "descriptors are left")


def _check_versions(disk: PowerCutDisk, store: Store, promises: Promises) -> None:
    held = {version.digest: version.size for version in store.versions()}
    _expect(promises.held <= held.keys(), "a committed version is missing")
    _expect(not promises.gone & held.keys(), "a removed version is back")
    files = disk.files()
    for digest, size in held.items():
        data, manifest = KNOWN[digest]
        found = files[str(PACKAGES / f"{digest}.zip")]
        _expect(len(found) == size, "a package does not have the reported size")
        _expect(store.manifest(digest) == manifest, "a manifest is wrong")
        damaged = promises.damaged.get(digest, frozenset())
        try:
            store.verify(digest)
        except PackageCorrupt as error:
            _expect(set(error.bad) <= damaged and bool(error.bad), f"a package is corrupt: {error.bad}")
        else:
            _expect(found == data, "a package that verifies has wrong bytes")
    wanted = {f"{digest}.{suffix}" for digest in held for suffix in ("zip", "json")}
    _expect(set(disk.list(PACKAGES)) == wanted, "there are other files in packages/")


def _check_refs(disk: PowerCutDisk, store: Store, promises: Promises) -> None:
    for meeting, allowed in promises.refs.items():
        _expect(store.ref(meeting) in allowed, f"meeting {meeting} has {store.ref(meeting)}")
    for ref in store.refs():
        _expect(ref.meeting_id in promises.refs, "an unknown meeting has a ref")
        _expect(store.holds(ref.digest), "a ref names a missing version")
    _expect(len(disk.list(MEETINGS)) == len(store.refs()), "there are other files in meetings/")


def _check_space(disk: PowerCutDisk, store: Store) -> None:
    files = disk.files()
    names = disk.list(INCOMING)
    parts = {Path(name).stem for name in names if name.endswith(".part")}
    extra = [name for name in names if not name.endswith(".part")]
    _expect(not extra, f"left in incoming/: {extra}")
    usage = store.usage()
    filling = sum(len(files[str(INCOMING / f"{part}.part")]) for part in parts)
    stored = sum(len(data) for path, data in files.items() if path.startswith(str(PACKAGES)) and path.endswith(".zip"))
    _expect(usage.filling == filling, f"{usage.filling} bytes are reserved, not {filling}")
    _expect(usage.stored == stored, f"{usage.stored} bytes are stored, not {stored}")


def _resume_all(disk: PowerCutDisk, life: Life) -> None:
    for name in disk.list(INCOMING):
        if name.endswith(".part"):
            data, manifest = KNOWN[Digest(Path(name).stem)]
            life.fill(data)
            assert life.store is not None
            life.store.verify(manifest.digest)
            _expect(disk.files()[str(PACKAGES / f"{manifest.digest}.zip")] == data, "a resumed fill is wrong")
    _expect(not disk.list(INCOMING), "resumed fills have left files")


def _commit_more(disk: PowerCutDisk, life: Life) -> None:
    """Commit another package and cut the power again: everything must be durable by then."""
    new = package(99, 1, 700)
    life.fill(new)
    life.switch(Ref("the next", learn(new).digest))
    all_lost = next(cuts(disk, random.Random(1)))
    check(all_lost.make(), life.promises)


def _expect(right: bool, words: str) -> None:
    if not right:
        raise Violation(words)
