"""Several processes on one storage folder, one of them killed without warning."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from store import DiskStore, FillBusy, NodeFileDamaged, Ref, StorageLock, StorageTaken, node_id
from store.filesystem import FileSystem
from tests.store.helpers import read_all
from tests.store.samples import fill_whole, manifest_of, package
from tests.store.worker import MANIFESTS, POOL

ROOT = Path(__file__).parents[2]
ROUNDS = 300 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 20
"""Processes killed, one after the other."""

FILL = """
import sys
from store import DiskStore
from tests.store.samples import manifest_of, package
folder, count = sys.argv[1], int(sys.argv[2])
data = package(7, count=20)
store = DiskStore.open(folder)
fill = store.begin_fill(manifest_of(data))
for chunk in fill.missing()[:count]:
    fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
print("ready", flush=True)
sys.stdin.read()
"""

STREAM = """
import sys
from store import DiskStore
from tests.store.samples import package
fill = DiskStore.open(sys.argv[1]).begin_stream("m")
fill.append(package(7))
print("ready", flush=True)
sys.stdin.read()
"""

LEAD = """
import sys
from store import StorageLock
lock = StorageLock(sys.argv[1])
assert lock.acquire(sys.argv[2], "n")
print("ready", flush=True)
sys.stdin.read()
"""

COMMIT_FOR_EVER = """
import sys
from store import DiskStore, Ref
from tests.store.samples import fill_whole, package
store = DiskStore.open(sys.argv[1])
print("ready", flush=True)
for seed in range(100000):
    digest = fill_whole(store, package(seed, count=3)).digest
    store.set_ref(Ref("m", digest, title=str(seed)))
    if seed % 3 == 2:
        for version in list(store.versions()):
            if version.digest != digest:
                store.remove(version.digest)
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )


@contextmanager
def running(script: str, *arguments: object):
    """A process that runs `script` and has said that it is ready; killed at the end, if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "storage"


@pytest.mark.parametrize("count", [1, 13])
def test_a_fill_goes_on_where_a_killed_process_left_it(folder, count):
    data = package(7, count=20)
    manifest = manifest_of(data)
    with running(FILL, folder, count) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with DiskStore.open(folder) as store:
        assert store.usage().filling == len(data)
        fill = store.begin_fill(manifest)
        assert list(fill.missing()) == list(manifest.chunks[count:])
        for chunk in fill.missing():
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        fill.commit()
        fill.close()
        with store.lease(manifest.digest) as lease:
            assert read_all(lease, len(data)) == data


def test_one_fill_among_processes(folder):
    manifest = manifest_of(package(7, count=20))
    with running(FILL, folder, 2) as process, DiskStore.open(folder) as store:
        with pytest.raises(FillBusy) as caught:
            store.begin_fill(manifest)
        assert caught.value.name == manifest.digest
        process.kill()
        process.wait()
        store.begin_fill(manifest).discard()


def test_a_stream_of_a_killed_process_is_removed(folder):
    with running(STREAM, folder) as process:
        with DiskStore.open(folder) as store, pytest.raises(FillBusy):
            store.begin_stream("m")
        assert len(list((folder / "incoming").iterdir())) == 1
        process.kill()
        process.wait()
        with DiskStore.open(folder) as store:
            assert list((folder / "incoming").iterdir()) == []
            store.begin_stream("m").discard()


@pytest.mark.parametrize("seed", range(6))
def test_a_store_whose_process_is_killed_at_any_moment_opens_sound(folder, seed):
    with running(COMMIT_FOR_EVER, folder) as process:
        # How far it comes before that is chance, and meant to be.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(random.Random(seed).uniform(0.02, 0.3))
        process.kill()
        process.wait()
    with DiskStore.open(folder) as store:
        for version in store.versions():
            store.verify(version.digest)
            assert store.manifest(version.digest).size == version.size
        for ref in store.refs():
            assert store.holds(ref.digest)
        stored = {f"{version.digest}.{suffix}" for version in store.versions() for suffix in ("zip", "json")}
        assert {path.name for path in (folder / "packages").iterdir()} == stored
        assert not any(path.suffix == ".tmp" for path in (folder / "incoming").iterdir())


class _CommitsMeanwhile(FileSystem):
    """Another process commits a version, and switches a meeting to it, just after the packages' names were read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self, path: Path) -> list[str]:
        names = super().list(path)
        if path.name == "packages":
            other = DiskStore(self._folder, FileSystem(), 0, 0)
            other.set_ref(Ref("m", fill_whole(other, package(3)).digest))
        return names


def test_opening_beside_a_commit_forgets_no_meeting(folder):
    DiskStore.open(folder).close()
    with DiskStore.open(folder, fs=_CommitsMeanwhile(folder)) as store:
        (ref,) = store.refs()
        store.verify(ref.digest)
    assert len(list((folder / "meetings").iterdir())) == 1


def test_two_workers_and_a_command_line_of_which_one_is_killed_again_and_again(folder, tmp_path):
    """One fill at a time, no wrong byte, and nothing that keeps the next one out."""
    witness = tmp_path / "witness"
    witness.mkdir()
    pick = random.Random(20261124)
    seeds = itertools.count()
    DiskStore.open(folder).close()

    def worker() -> subprocess.Popen[str]:
        return start("-m", "tests.store.worker", folder, witness, next(seeds))

    def command_line() -> subprocess.Popen[str]:
        command = pick.choice([["ls", "--json"], ["verify", "--json"], ["gc", "--json"]])
        return start("-m", "trionode", *command, "--storage-path", folder)

    makers = [worker, worker, command_line]
    running = [make() for make in makers]
    try:
        for _ in range(ROUNDS):
            victim = pick.choice([0, 0, 1, 1, 2])
            if victim != 2:  # it must have come to the point where it can do harm
                assert running[victim].stdout.readline() == "ready\n"
            with suppress(subprocess.TimeoutExpired):  # how far it comes is chance, and meant to be
                running[victim].wait(pick.uniform(0.0, 0.1 if victim != 2 else 0.5))
            running[victim].kill()
            output, _ = running[victim].communicate()
            assert victim == 2 or output == "", output
            assert running[victim].returncode in {0, -signal.SIGKILL}
            running[victim] = makers[victim]()
        for process in running[:2]:
            rest, errors = process.communicate("", timeout=60)
            assert (process.returncode, rest) == (0, "ready\n"), errors
        output, errors = running[2].communicate(timeout=60)
        assert running[2].returncode == 0, (output, errors)
    finally:
        for process in running:
            process.kill()
            process.communicate()
    with DiskStore.open(folder) as store:
        for version in store.versions():
            store.verify(version.digest)
        assert all(store.holds(ref.digest) for ref in store.refs())
        for manifest, data in zip(MANIFESTS, POOL, strict=True):
            store.remove(manifest.digest)
            assert fill_whole(store, data) == manifest
            store.begin_stream("m").discard()
        assert store.usage().filling == 0
    assert list((folder / "incoming").iterdir()) == []


# -- the node's own files


def test_one_process_leads_and_others_of_its_address_follow(folder):
    with running(LEAD, folder, "10.0.0.1:8001") as process, StorageLock(folder) as lock:
        assert not lock.acquire("10.0.0.1:8001", "n")
        assert not lock.leader
        with pytest.raises(StorageTaken, match=r"taken by the node at 10\.0\.0\.1:8001") as caught:
            lock.acquire("10.0.0.2:8001", "n")
        assert caught.value.holder == "10.0.0.1:8001"
        process.kill()
        process.wait()
        assert lock.acquire("10.0.0.2:8001", "n")
        assert lock.leader
        assert lock.acquire("10.0.0.2:8001", "n")


def test_a_lock_given_up_can_be_taken_under_another_address(folder):
    with StorageLock(folder) as lock:
        assert lock.acquire("a:1", "n")
    assert not lock.leader
    lock.release()
    with StorageLock(folder) as lock, StorageLock(folder) as other:
        assert lock.acquire("b:1", "n")
        assert not other.acquire("b:1", "n")


def test_a_node_keeps_its_id(folder):
    name = node_id(folder)
    assert name == node_id(folder)
    assert name.startswith("node-")
    assert name != node_id(folder.with_name("other"))
    DiskStore.open(folder).close()
    assert node_id(folder) == name
    assert list((folder / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"node_id": ""}', b'{"node_id": 7}', b"\xff", b"[" * 99_999]
)
def test_a_damaged_id_is_not_replaced(folder, data):
    node_id(folder)
    (folder / "node.json").write_bytes(data)
    with pytest.raises(NodeFileDamaged, match=r"node\.json is damaged"):
        node_id(folder)
    assert (folder / "node.json").read_bytes() == data
    (folder / "node.json").write_bytes(b'{"node_id": "hall-3"}')
    assert node_id(folder) == "hall-3"
