"""Several processes on one storage folder, one of them killed at any moment."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from store import (
    FillBusy,
    Ref,
    Store,
)
from store.filesystem import FileSystem
from tests.store.busy_process import MANIFESTS, POOL
from tests.store.helpers import (
    read_all,
)
from tests.store.processes import running, start
from tests.store.samples import (
    fill_whole,
    manifest_of,
    package,
)

ROUNDS = 300 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 20
"""How many processes are killed, one after the other."""


FILL = """
import sys
from store import Store
from tests.store.samples import manifest_of, package
folder, count = sys.argv[1], int(sys.argv[2])
data = package(7, count=20)
store = Store.open(folder)
fill = store.begin_fill(manifest_of(data))
for chunk in fill.missing()[:count]:
    fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
print("ready", flush=True)
sys.stdin.read()
"""


STREAM = """
import sys
from store import Store
from tests.store.samples import package
fill = Store.open(sys.argv[1]).begin_stream("m")
fill.append(package(7))
print("ready", flush=True)
sys.stdin.read()
"""


COMMIT_FOR_EVER = """
import sys
from store import Store, Ref
from tests.store.samples import fill_whole, package
store = Store.open(sys.argv[1])
print("ready", flush=True)
for seed in range(100000):
    digest = fill_whole(store, package(seed, count=3)).digest
    store.set_ref(Ref("m", digest, title=str(seed)))
    if seed % 3 == 2:
        for version in list(store.versions()):
            if version.digest != digest:
                store.remove(version.digest)
"""


@pytest.mark.parametrize("count", [1, 13])
def test_a_fill_of_a_killed_process_is_resumed(folder, count):
    data = package(7, count=20)
    manifest = manifest_of(data)
    with running(FILL, folder, count) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with Store.open(folder) as store:
        assert store.usage().filling == len(data)
        fill = store.begin_fill(manifest)
        assert list(fill.missing()) == list(manifest.chunks[count:])
        for chunk in fill.missing():
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        fill.commit()
        fill.close()
        with store.lease(manifest.digest) as lease:
            assert read_all(lease, len(data)) == data


def test_one_fill_of_a_version_among_processes(folder):
    manifest = manifest_of(package(7, count=20))
    with running(FILL, folder, 2) as process, Store.open(folder) as store:
        with pytest.raises(FillBusy) as caught:
            store.begin_fill(manifest)
        assert caught.value.name == manifest.digest
        process.kill()
        process.wait()
        store.begin_fill(manifest).discard()


def test_a_stream_of_a_killed_process_is_removed(folder):
    with running(STREAM, folder) as process:
        with Store.open(folder) as store, pytest.raises(FillBusy):
            store.begin_stream("m")
        assert len(list((folder / "incoming").iterdir())) == 1
        process.kill()
        process.wait()
        with Store.open(folder) as store:
            assert list((folder / "incoming").iterdir()) == []
            store.begin_stream("m").discard()


@pytest.mark.parametrize("seed", range(6))
def test_a_store_is_intact_after_its_process_is_killed_at_any_moment(folder, seed):
    with running(COMMIT_FOR_EVER, folder) as process:
        # How far it gets is random, on purpose.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(random.Random(seed).uniform(0.02, 0.3))
        process.kill()
        process.wait()
    with Store.open(folder) as store:
        for version in store.versions():
            store.verify(version.digest)
            assert store.manifest(version.digest).size == version.size
        for ref in store.refs():
            assert store.holds(ref.digest)
        stored = {f"{version.digest}.{suffix}" for version in store.versions() for suffix in ("zip", "json")}
        assert {path.name for path in (folder / "packages").iterdir()} == stored
        assert not any(path.suffix == ".tmp" for path in (folder / "incoming").iterdir())


class _CommitsMeanwhile(FileSystem):
    """Commits a version and switches a meeting to it, as another process, just after packages were listed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self, path: Path) -> list[str]:
        names = super().list(path)
        if path.name == "packages":
            other = Store(self._folder, FileSystem(), 0, 0)
            other.set_ref(Ref("m", fill_whole(other, package(3)).digest))
        return names


def test_opening_during_a_commit_drops_no_ref(folder):
    Store.open(folder).close()
    with Store.open(folder, fs=_CommitsMeanwhile(folder)) as store:
        (ref,) = store.refs()
        store.verify(ref.digest)
    assert len(list((folder / "meetings").iterdir())) == 1


def test_two_processes_and_a_command_of_which_one_is_killed_again_and_again(folder, tmp_path):
    """One fill at a time, no wrong bytes, and no lock or file that keeps the next process out."""
    witness = tmp_path / "witness"
    witness.mkdir()
    pick = random.Random(20261124)
    seeds = itertools.count()
    Store.open(folder).close()

    def busy_process() -> subprocess.Popen[str]:
        return start("-m", "tests.store.busy_process", folder, witness, next(seeds))

    def command_line() -> subprocess.Popen[str]:
        command = pick.choice([["ls", "--json"], ["verify", "--json"], ["gc", "--json"]])
        return start("-m", "trionode", *command, "--storage-path", folder)

    makers = [busy_process, busy_process, command_line]
    running = [make() for make in makers]
    try:
        for _ in range(ROUNDS):
            victim = pick.choice([0, 0, 1, 1, 2])
            if victim != 2:  # it uses the store by now
                assert running[victim].stdout.readline() == "ready\n"
            with suppress(subprocess.TimeoutExpired):  # how far it gets is random, on purpose
                running[victim].wait(pick.uniform(0.0, 0.1 if victim != 2 else 0.5))
            running[victim].kill()
            output, errors = running[victim].communicate()
            assert victim == 2 or output == "", output
            assert running[victim].returncode in {0, -signal.SIGKILL}, errors
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
    with Store.open(folder) as store:
        for version in store.versions():
            store.verify(version.digest)
        assert all(store.holds(ref.digest) for ref in store.refs())
        for manifest, data in zip(MANIFESTS, POOL, strict=True):
            store.remove(manifest.digest)
            assert fill_whole(store, data) == manifest
            store.begin_stream("m").discard()
        assert store.usage().filling == 0
    assert list((folder / "incoming").iterdir()) == []
