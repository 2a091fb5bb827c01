"""Uses of a store during which the power is cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from store import (
    FillBusy,
    Ref,
    StorageLock,
    Store,
    VersionPresent,
    plan_eviction,
)
from tests.store.power_cut_explorer import Explorer
from tests.store.power_cut_life import FOLDER, MEETINGS, PACKAGES, Life, do_nothing, learn
from tests.store.samples import documents, make_zip, package


def first_start(life: Life) -> None:
    """Open a folder that does not exist yet."""
    life.name()
    life.open()
    life.fill(package(1, 2, 700))


def first_lock(life: Life) -> None:
    """Take the lock of a folder that does not exist yet."""
    with StorageLock(FOLDER, life.disk) as lock:
        lock.acquire("127.0.0.1:1", "n")
        life.open()
        life.fill(package(1, 1, 700))


def both_origins(life: Life) -> None:
    """A stream from a legacy origin, then a fill; a meeting that gets a new package, and ends."""
    members = documents(3, 700)
    old, new = make_zip(members, minute=1), make_zip({**members, "x.pdf": b"x" * 900}, minute=2)
    life.open()
    life.stream("m", old)
    life.switch(Ref("m", learn(old).digest, title="old"))
    life.fill(new)
    life.switch(Ref("m", learn(new).digest, title="new", pinned=True))
    life.drop("m")
    life.stream("m", old)  # which is stored already


def parked_fills(life: Life) -> None:
    """Fills that are parked and resumed, also after a restart; a discarded fill; an aborted stream."""
    data = package(2, 4, 900)
    life.open()
    life.fill(data, 1)
    life.fill(data, 1)
    life.restart()
    life.stream("m", package(3, 2, 700), commit=False)
    life.discard(package(4, 2, 700))
    life.fill(data)
    life.switch(Ref("m", learn(data).digest))


def eviction(life: Life) -> None:
    """Versions are evicted by plan, with the refs that name them; a parked fill is given up for another."""
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


def damage(life: Life) -> None:
    """The disk damages a package, which is repaired, and a manifest, which is made again."""
    data = package(8, 3, 2000)
    digest = learn(data).digest
    life.open()
    life.fill(data)
    life.switch(Ref("m", digest))
    for chunk in (life.damage(data, 0), life.damage(data, 2)):
        life.repair(data, chunk)
    life.disk.damage(PACKAGES / f"{digest}.json", 0)
    life.promises = replace(life.promises, damaged_manifests=frozenset([digest]))
    life.restart().manifest(digest)
    life.promises = replace(life.promises, damaged_manifests=frozenset())


def renamed_ref(life: Life) -> None:
    """A ref was renamed by hand: the id inside counts."""
    data = package(9, 1, 700)
    life.open()
    life.fill(data)
    life.switch(Ref("right", learn(data).digest))
    life.disk.watch = do_nothing
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
        other = Store.open(FOLDER, fs=life.disk)
        left = number

        def ask(life: Life = life, other: Store = other) -> None:
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
    renamed_ref,
    damage,
    both_origins,
    parked_fills,
    eviction,
)
