"""`trionode pin`, `unpin`, `evict` and `gc`: alone, and beside a node that runs on the folder."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio

from store import Ref, Store, split_file
from store.eviction import RETIRED_SECONDS
from tests.support.nodes import digest_of
from tests.support.packages import rebuild
from tests.support.stored import path_of
from tests.support.waiting import eventually
from trionode.cli.exits import FAILED, OK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.trionode.cli.conftest import Run


def test_a_pin_protects_from_eviction_until_it_is_removed(run: Run, storage: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    assert run("pin", "m1")[1] == {"version": package.digest, "meetings": ["m1"], "pinned": True}
    status, report = run("evict", "m1")
    assert (status, "pinned" in report["error"]) == (FAILED, True)
    assert run("unpin", "m1")[1]["pinned"] is False
    assert run("evict", "m1")[1] == {
        "version": package.digest,
        "meetings": ["m1"],
        "removed": True,
        "freed": package.size,
    }
    assert not path_of(storage, package).exists()


def test_a_version_of_two_meetings_is_evicted_with_the_second(run: Run, storage: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    run("import", package.path, "--meeting", "m2")
    assert run("evict", "m1")[1]["removed"] is False
    assert path_of(storage, package).exists()
    assert run("evict", "m2")[1]["freed"] == package.size
    assert run("ls")[1]["versions"] == []


def test_a_meeting_in_progress_is_evicted_only_with_force(run: Run, storage: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    with Store.open(storage) as store:
        (ref,) = store.refs()
        store.set_ref(Ref(ref.meeting_id, ref.digest, in_progress=True))
    status, report = run("evict", package.digest)
    assert (status, "in progress" in report["error"]) == (FAILED, True)
    assert run("evict", package.digest, "--force")[0] == OK


@pytest.mark.parametrize("used", [-3600, 10 * 365 * 86400], ids=["an hour ago", "under a clock that was ahead"])
def test_gc_removes_an_old_version_that_no_meeting_has(
    run: Run, storage: Path, package: Package, rebuilt: Package, used: int
):
    run("import", package.path, "--meeting", "m1")
    run("import", rebuilt.path, "--meeting", "m1")
    assert run("gc")[1]["removed"] == []  # tablets may be on their way to it
    at = time.time() + used
    os.utime(path_of(storage, package).with_suffix(".json"), (at, at))
    dry = run("gc", "--dry-run")
    assert dry[0] == OK
    assert [row["digest"] for row in dry[1]["removed"]] == [package.digest]
    assert path_of(storage, package).exists()
    assert run("gc")[1]["freed"] == package.size
    assert not path_of(storage, package).exists()
    assert run("gc")[1]["removed"] == []


def test_gc_removes_an_abandoned_fetch_that_is_old(run: Run, storage: Path, package: Package):
    with Store.open(storage) as store:
        fill = store.begin_fill(split_file(package.path))
        first = fill.missing()[0]
        fill.write(first, package.path.read_bytes()[first.offset : first.offset + first.size])
        fill.close()
    assert run("gc")[1]["removed"] == []  # it may be resumed
    (part,) = (storage / "incoming").iterdir()
    at = time.time() - 2 * RETIRED_SECONDS
    os.utime(part, (at, at))
    dry = run("gc", "--dry-run")
    row = {"digest": package.digest, "size": package.size, "why": "its fetch was abandoned"}
    assert (dry[0], dry[1]["removed"], dry[1]["freed"]) == (OK, [row], package.size)
    assert part.exists()
    assert run("gc")[1]["removed"] == [row]
    assert not part.exists()
    assert run("ls")[1]["filling"] == 0


def test_gc_keeps_the_limits_or_reports_that_it_cannot(run: Run, storage: Path, package: Package, rebuilt: Package):
    run("import", package.path, "--meeting", "m1")
    run("import", rebuilt.path, "--meeting", "m2")
    old = time.time() - 60
    os.utime(path_of(storage, package).with_suffix(".json"), (old, old))
    status, report = run("gc", "--max-bytes", str(rebuilt.size * 3 // 2))
    assert (status, [row["digest"] for row in report["removed"]]) == (OK, [package.digest])
    run("pin", "m2")
    status, report = run("gc", "--max-bytes", "1000")
    assert (status, report["removed"]) == (FAILED, [])
    assert "over its limits" in report["problem"]


async def test_a_running_node_keeps_a_pin_when_it_switches_versions(
    node: OurNode, run: Run, package: Package, folder: Path, storage: Path
):
    await trio.to_thread.run_sync(run, "pin", "m1")
    # A switch to another version writes the ref anew, with the pin that a command has put there.
    new = rebuild(package, made_at=package.made_at + timedelta(hours=1), replaced=[0])

    def ref() -> dict[str, Any]:
        (path,) = (storage / "meetings").iterdir()
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    await eventually(lambda: ref()["digest"] == new.digest, within=20)
    assert ref()["pinned"]


async def test_a_running_node_fetches_again_what_was_evicted(node: OurNode, run: Run, package: Package):
    fetched = (await node.status())["bytes_fetched"]
    assert (await trio.to_thread.run_sync(run, "evict", "m1", "--force"))[0] == OK

    async def fetched_again() -> bool:
        return (await node.status())["bytes_fetched"] >= fetched + package.size * 0.9 and await node.synced() == ["m1"]

    await eventually(fetched_again, within=20)
    assert digest_of((await node.download("m1")).content) == package.digest
