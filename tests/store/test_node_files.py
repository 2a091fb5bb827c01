from __future__ import annotations

import json
import os

import pytest

from store import (
    NodeFileDamaged,
    StorageLock,
    StorageTaken,
    Store,
    node_id,
)
from tests.store.processes import running

LOCK = """
import sys
from store import StorageLock
lock = StorageLock(sys.argv[1])
lock.acquire(sys.argv[2], "n")
print("ready", flush=True)
sys.stdin.read()
"""


ADVICE = (
    ": a node is one process, so leave out --workers (-w) of hypercorn, and to use more cores run several nodes, "
    "each with its own port and storage folder"
)


@pytest.mark.parametrize("address", ["10.0.0.1:8001", "10.0.0.2:8001"])
def test_a_second_node_is_refused_until_the_first_has_ended(folder, address):
    with running(LOCK, folder, "10.0.0.1:8001") as process, StorageLock(folder) as lock:
        with pytest.raises(StorageTaken) as caught:
            lock.acquire(address, "n")
        error = caught.value
        assert (error.path, error.address, error.pid) == (str(folder), "10.0.0.1:8001", process.pid)
        assert str(error) == (
            f"the storage folder {folder} is in use by the node at 10.0.0.1:8001 (process {process.pid}){ADVICE}"
        )
        process.kill()
        process.wait()
        lock.acquire(address, "n")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"{}", b'{"address": 1, "pid": "x", "ends_within": "x"}'])
def test_a_holder_that_has_not_written_its_address_is_another_process(folder, data):
    with StorageLock(folder) as lock, StorageLock(folder) as other:
        lock.acquire("a:1", "n")
        (folder / "node.lock").write_bytes(data)
        with pytest.raises(StorageTaken) as caught:
            other.acquire("a:1", "n")
        assert str(caught.value) == f"the storage folder {folder} is in use by another process{ADVICE}"


def test_a_holder_tells_how_long_its_end_takes(folder):
    with StorageLock(folder) as lock, StorageLock(folder) as other:
        with pytest.raises(FileNotFoundError):
            other.find_holder()
        lock.acquire("a:1", "n")
        for seconds in (None, 40.0, 10.0):
            if seconds is not None:
                lock.set_ending(seconds)
            found = other.find_holder()
            assert (found.address, found.pid, found.ends_within) == ("a:1", os.getpid(), seconds)
        lock.release()
        lock.set_ending(5.0)
        assert other.find_holder() is None
        assert (folder / "node.lock").read_bytes() == b""
        other.acquire("b:1", "n")
        assert lock.find_holder().ends_within is None


def test_a_released_lock_can_be_taken_under_another_address(folder):
    with StorageLock(folder) as lock:
        lock.acquire("a:1", "n")
        with pytest.raises(StorageTaken):
            lock.acquire("a:1", "n")
    assert (folder / "node.lock").read_bytes() == b""
    lock.release()
    with StorageLock(folder) as lock:
        lock.acquire("b:1", "n")
        holder = {"address": "b:1", "node_id": "n", "pid": os.getpid()}
        assert json.loads((folder / "node.lock").read_bytes()) == holder


def test_a_node_keeps_its_id(folder):
    name = node_id(folder)
    assert name == node_id(folder)
    assert name.startswith("node-")
    assert name != node_id(folder.with_name("other"))
    Store.open(folder).close()
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
