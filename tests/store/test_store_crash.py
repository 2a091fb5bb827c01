"""The power is cut after every call of a store's life, in every way a file system allows; the store must not mind.

And the test is tested: without any one of the syncs in the code, it fails. `CRASH_STATES=all` (`make soak`) looks at
more states.
"""

from __future__ import annotations

import inspect
import logging
import os
import random
from pathlib import Path

import pytest

from store import DiskStore, node_id
from store.filesystem import FileSystem
from tests.store.crashes import (
    FOLDER,
    SCRIPTS,
    Explorer,
    Life,
    Promises,
    Violation,
    a_ref_by_another_name,
    bad_bytes,
    both_origins,
    check,
    first_lock,
    first_start,
    room_is_made,
    two_processes,
)
from tests.store.powercut import PowerCutDisk

ALL = os.environ.get("CRASH_STATES") == "all"

SYNCS = {
    "ref_table.drop: sync_folder meetings": both_origins,
    "disk._is_stored: sync_folder packages": None,  # two processes
    "disk.publish: sync .part": first_start,
    "disk.publish: sync .stream": both_origins,
    "publishing.put_in_place: sync .tmp": bad_bytes,
    "publishing.put_in_place: sync_folder packages": first_start,
    "disk.remove: sync_folder packages": room_is_made,
    "ref_table._set: sync .tmp": bad_bytes,
    "ref_table._set: sync_folder meetings": bad_bytes,
    "mending._write: sync .zip": bad_bytes,
    "node_files._lead: sync_folder lib": first_lock,
    "node_files.node_id: sync .tmp": first_start,
    "node_files.node_id: sync_folder lib": first_start,
    "node_files.node_id: sync_folder storage": first_start,
    "recovery._check_format: sync .tmp": first_start,
    "recovery._check_format: sync_folder storage": first_start,
    "recovery._refs: sync .tmp": a_ref_by_another_name,
    "recovery._refs: sync_folder meetings": a_ref_by_another_name,
    "recovery.recover: sync_folder lib": bad_bytes,
    "recovery.recover: sync_folder meetings": bad_bytes,
    "recovery.recover: sync_folder packages": bad_bytes,
    "recovery.remake_manifest: sync .tmp": bad_bytes,
    "recovery.remake_manifest: sync_folder packages": bad_bytes,
}
"""Every sync there is (module, function, call, and the kind of file or the folder), and a life that needs it."""


@pytest.fixture(autouse=True)
def _quiet():
    """Thousands of recoveries have much to tell."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_no_power_cut_takes_or_spoils_what_was_promised(capsys):
    explorer = Explorer(extra=20, again=1) if ALL else Explorer()
    two_processes(explorer)
    for script in SCRIPTS:
        explorer.run(script)
    found = explorer.counts
    with capsys.disabled():
        print(
            f"\npower cuts: {found['states']} states of {found['cuts']} looked at, after {found['calls']} calls and "
            f"{found['kills']} kills; {found['recoveries cut']} recoveries cut in their turn; {len(SYNCS)} syncs"
        )
    assert found["states"] >= 1000
    assert explorer.sites == SYNCS.keys()


@pytest.mark.parametrize("sync", SYNCS)
def test_no_sync_can_be_left_out(sync):
    explorer = Explorer(skip=sync, extra=0, kills=sync.startswith("recovery"))
    script = SYNCS[sync]
    with pytest.raises(Violation):
        two_processes(explorer) if script is None else explorer.run(script)


def test_the_same_states_are_the_same_on_a_real_file_system(tmp_path):
    """The disk in memory is no excuse: some of its states, laid out as real files."""
    pick = random.Random(7)
    tried = 0

    def sample(left: PowerCutDisk, promises: Promises) -> None:
        nonlocal tried
        if pick.random() > 0.05:
            return
        tried += 1
        real = tmp_path / str(tried)
        left.lay_out(real)
        here = left.killed()
        with DiskStore.open(FOLDER, fs=here) as wanted, DiskStore.open(real / FOLDER.relative_to("/")) as got:
            assert {(v.digest, v.size) for v in got.versions()} == {(v.digest, v.size) for v in wanted.versions()}
            assert set(got.refs()) == set(wanted.refs())
            assert (got.usage().stored, got.usage().filling) == (wanted.usage().stored, wanted.usage().filling)
            for version in wanted.versions():
                assert got.manifest(version.digest) == wanted.manifest(version.digest)
        assert contents(real) == here.files()

    explorer = Explorer(extra=1)
    explorer.sample = sample
    explorer.run(both_origins)
    assert tried > 20


def contents(under: Path) -> dict[str, bytes]:
    return {f"/{path.relative_to(under)}": path.read_bytes() for path in under.rglob("*") if path.is_file()}


def test_the_disk_in_memory_has_every_call_of_the_seam():
    public = {name for name, _ in inspect.getmembers(FileSystem, inspect.isfunction) if not name.startswith("_")}
    assert public <= vars(PowerCutDisk).keys()


def test_the_checks_find_what_they_look_for():
    """Each of them, on a disk where somebody did just that."""
    explorer = Explorer()

    def spoilt(change) -> None:
        life = Life(explorer.new_disk())
        both_origins(life)
        life.name()
        assert life.store is not None
        life.store.close()
        life.disk.settle()
        check(life.disk.killed(), life.promises)
        disk = life.disk.killed()
        change(disk)
        disk.settle()
        with pytest.raises(Violation):
            check(disk, life.promises)

    held = sorted(both_origins_digests(explorer))
    spoilt(lambda disk: disk.unlink(FOLDER / "packages" / f"{held[0]}.zip"))
    spoilt(lambda disk: disk.unlink(FOLDER / "packages" / f"{held[1]}.json"))
    spoilt(lambda disk: disk.rot(FOLDER / "packages" / f"{held[0]}.zip", 100))
    spoilt(lambda disk: disk.create(FOLDER / "packages" / "x"))
    spoilt(lambda disk: disk.create(FOLDER / "meetings" / "x"))
    spoilt(lambda disk: disk.create(FOLDER / "incoming" / "x"))
    spoilt(lambda disk: (disk.unlink(FOLDER / "node.json"), node_id(FOLDER, disk)))


def both_origins_digests(explorer: Explorer):
    life = Life(explorer.new_disk())
    both_origins(life)
    return life.promises.held
