"""`trionode verify`, and its repairs: alone, and beside a node that runs on the folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from tests.support.stored import flip, path_of
from trionode.cli.exits import FAILED, OK, REPAIRED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.cli.conftest import Run


def test_verify_finds_every_kind_of_damage(run: Run, storage: Path, package: Package, rebuilt: Package):
    run("import", package.path, "--meeting", "m1")
    run("import", rebuilt.path, "--meeting", "m2")
    status, report = run("verify")
    assert (status, report["right"], report["bytes"]) == (OK, 2, package.size + rebuilt.size)
    assert report["bytes_per_second"] > 0
    flip(path_of(storage, package), 300_000)  # in a document
    flip(path_of(storage, rebuilt), 0)  # in a header
    status, report = run("verify")
    assert (status, report["damaged"]) == (FAILED, 2)
    bad = {finding["digest"]: finding["bad"] for finding in report["findings"]}
    assert [piece["kind"] for piece in bad[package.digest]] == ["chunk"]
    assert (
        bad[package.digest][0]["offset"] <= 300_000 < bad[package.digest][0]["offset"] + bad[package.digest][0]["size"]
    )
    assert [piece["kind"] for piece in bad[rebuilt.digest]] == ["literal"]
    status, report = run("verify", "m2")
    assert (status, report["versions"]) == (FAILED, 1)
    os.truncate(path_of(storage, package), 1000)
    assert run("verify", "m1")[0] == FAILED


def test_a_package_that_is_removed_at_opening_is_a_failure(run: Run, storage: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    flip(path_of(storage, package), 300_000)
    path_of(storage, package).with_suffix(".json").unlink()
    status, report = run("verify")
    assert (status, report["dropped"], report["findings"][0]["digest"]) == (FAILED, 1, package.digest)


def test_repair_fetches_only_what_is_bad(spawn: Spawner, folder: Path, run: Run, storage: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    url = ShimMaster(spawn, folder).url
    flip(path_of(storage, package), 0)
    flip(path_of(storage, package), 300_000)
    assert run("verify")[0] == FAILED
    status, report = run("verify", "--repair", url=url)
    assert (status, report["repaired"], len(report["findings"][0]["bad"])) == (REPAIRED, 1, 2)
    assert path_of(storage, package).read_bytes() == package.path.read_bytes()
    assert run("verify")[0] == OK
    os.truncate(path_of(storage, package), 500_000)
    assert run("verify", "--repair", url=url)[0] == REPAIRED
    assert path_of(storage, package).read_bytes() == package.path.read_bytes()


def test_repair_copies_from_another_stored_version(run: Run, storage: Path, package: Package, rebuilt: Package):
    run("import", package.path, "--meeting", "m1")
    run("import", rebuilt.path, "--meeting", "m2")
    flip(path_of(storage, package), 300_000)  # the second document, which both have; no master answers
    assert run("verify", "--repair")[0] == REPAIRED
    assert path_of(storage, package).read_bytes() == package.path.read_bytes()


def test_a_version_that_the_master_no_longer_has_is_removed_and_one_that_cannot_be_fetched_now_stays(
    spawn: Spawner, folder: Path, run: Run, storage: Path, package: Package
):
    run("import", package.path, "--meeting", "m1")
    flip(path_of(storage, package), 300_000)
    status, report = run("verify", "--repair")  # no master answers
    assert (status, report["damaged"]) == (FAILED, 1)
    assert "cannot be reached" in report["findings"][0]["reason"]
    assert path_of(storage, package).exists()
    make_package(package.path, make_documents(2, 10_000, seed="other"))
    status, report = run("verify", "--repair", url=ShimMaster(spawn, folder).url)
    assert (status, report["dropped"]) == (FAILED, 1)
    assert run("ls")[1]["versions"] == []
    assert list((storage / "meetings").iterdir()) == []


async def test_a_running_node_serves_what_a_command_repaired(node: OurNode, run: Run, storage: Path, package: Package):
    flip(path_of(storage, package), 300_000)
    url = (await node.status())["main_server"]
    status, _ = await trio.to_thread.run_sync(lambda: run("verify", "--repair", url=url))
    # The node may have been quicker: both make the same bytes.
    assert status in {OK, REPAIRED}
    assert path_of(storage, package).read_bytes() == package.path.read_bytes()
    assert digest_of((await node.download("m1")).content) == package.digest
