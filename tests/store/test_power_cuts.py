"""Cut the power after every call of a store, in every way that a file system allows: nothing promised may be lost.

The tests are tested too: they fail without any one of the syncs in the code. `CRASH_STATES=all` (`make soak`) checks
more states.
"""

from __future__ import annotations

import inspect
import logging
import os
import random
from pathlib import Path

import pytest

from store import Store, node_id
from store.filesystem import FileSystem
from tests.store.power_cut_checks import Violation, check
from tests.store.power_cut_disk import PowerCutDisk
from tests.store.power_cut_explorer import Explorer
from tests.store.power_cut_life import FOLDER, Life, Promises
from tests.store.power_cut_scripts import (
    SCRIPTS,
    both_origins,
    damage,
    eviction,
    first_lock,
    first_start,
    renamed_ref,
    two_processes,
)

ALL = os.environ.get("CRASH_STATES") == "all"

SYNCS = {
    "refs.drop: sync_folder meetings": both_origins,
    "contents.is_stored: sync_folder packages": None,  # two processes
    "contents.publish: sync .part": first_start,
    "contents.publish: sync .stream": both_origins,
    "publishing.publish_file: sync .tmp": damage,
    "publishing.publish_file: sync_folder packages": first_start,
    "contents.remove: sync_folder packages": eviction,
    "refs._write: sync .tmp": damage,
    "refs._write: sync_folder meetings": damage,
    "repair._write: sync .zip": damage,
    "node_files.acquire: sync_folder lib": first_lock,
    "node_files.node_id: sync .tmp": first_start,
    "node_files.node_id: sync_folder lib": first_start,
    "node_files.node_id: sync_folder storage": first_start,
    "recovery._check_format: sync .tmp": first_start,
    "recovery._check_format: sync_folder storage": first_start,
    "recovery._read_refs: sync .tmp": renamed_ref,
    "recovery._read_refs: sync_folder meetings": renamed_ref,
    "recovery.recover: sync_folder lib": damage,
    "recovery.recover: sync_folder meetings": damage,
    "recovery.recover: sync_folder packages": damage,
    "recovery.remake_manifest: sync .tmp": damage,
    "recovery.remake_manifest: sync_folder packages": damage,
}
"""Every sync in the code (module, function, call, and the kind of file or the folder), and a script that needs it."""


@pytest.fixture(autouse=True)
def _quiet():
    """Thousands of recoveries would log too much."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_no_power_cut_loses_or_damages_what_was_promised(capsys):
    explorer = Explorer(extra=20, again=1) if ALL else Explorer()
    two_processes(explorer)
    for script in SCRIPTS:
        explorer.run(script, continue_use=script is first_start)
    found = explorer.counts
    with capsys.disabled():
        print(
            f"\npower cuts: {found['states']} of {found['cuts']} states are distinct, after {found['calls']} calls and "
            f"{found['kills']} kills; {found['recoveries cut']} recoveries cut as well; {len(SYNCS)} syncs"
        )
    assert found["states"] >= 1000
    assert explorer.sites == SYNCS.keys()


@pytest.mark.parametrize("sync", SYNCS)
def test_no_sync_can_be_left_out(sync):
    explorer = Explorer(skip=sync, extra=0, kills=sync.startswith("recovery"))
    script = SYNCS[sync]
    with pytest.raises(Violation):
        two_processes(explorer) if script is None else explorer.run(script, continue_use=script is first_start)


def test_the_same_states_are_the_same_on_a_real_file_system(tmp_path):
    """Some states of the disk in memory, written as real files, give the same store."""
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
        with Store.open(FOLDER, fs=here) as wanted, Store.open(real / FOLDER.relative_to("/")) as got:
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


def test_the_disk_in_memory_has_every_call_of_the_file_system():
    public = {name for name, _ in inspect.getmembers(FileSystem, inspect.isfunction) if not name.startswith("_")}
    assert public <= vars(PowerCutDisk).keys()


def test_the_checks_find_what_they_look_for():
    """Each check fails on a disk with the fault that it is for."""
    explorer = Explorer()

    def assert_found(change) -> None:
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
    assert_found(lambda disk: disk.unlink(FOLDER / "packages" / f"{held[0]}.zip"))
    assert_found(lambda disk: disk.unlink(FOLDER / "packages" / f"{held[1]}.json"))
    assert_found(lambda disk: disk.damage(FOLDER / "packages" / f"{held[0]}.zip", 100))
    assert_found(lambda disk: disk.create(FOLDER / "packages" / "x"))
    assert_found(lambda disk: disk.create(FOLDER / "meetings" / "x"))
    assert_found(lambda disk: disk.create(FOLDER / "incoming" / "x"))
    assert_found(lambda disk: (disk.unlink(FOLDER / "node.json"), node_id(FOLDER, disk)))


def both_origins_digests(explorer: Explorer):
    life = Life(explorer.new_disk())
    both_origins(life)
    return life.promises.held
