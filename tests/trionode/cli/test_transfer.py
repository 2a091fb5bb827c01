"""`trionode import`, `export` and `diff`: alone, and beside a node that runs on the folder."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, digest_of
from tests.support.packages import make_documents, make_package, rebuild
from tests.support.stored import flip, path_of
from tests.support.waiting import eventually
from trionode.cli.exits import FAILED, OK, USAGE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.cli.conftest import Run


def test_import_takes_only_packages(run: Run, storage: Path, tmp_path: Path, package: Package):
    (tmp_path / "letter.txt").write_text("no zip")
    status, report = run("import", tmp_path / "letter.txt", "--meeting", "m1")
    assert (status, "not a package" in report["error"]) == (FAILED, True)
    assert run("import", tmp_path / "missing.zip", "--meeting", "m1")[0] == USAGE
    assert run("import", package.path, "--meeting", "../m1")[0] == USAGE
    assert list((storage / "incoming").iterdir()) == []
    assert list((storage / "meetings").iterdir()) == []


def test_an_imported_version_is_not_taken_for_the_one_that_was_confirmed(
    run: Run, storage: Path, tmp_path: Path, package: Package
):
    run("import", package.path, "--meeting", "m1")
    file = storage / "meetings" / "m1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"token": "t"}))
    run("import", package.path, "--meeting", "m1", "--title", "the same")
    assert json.loads(file.read_text())["token"] == "t"
    other = make_package(tmp_path / "other.zip", make_documents(1, 10_000, seed="other"))
    run("import", other.path, "--meeting", "m1")
    assert json.loads(file.read_text())["token"] == ""


def test_import_respects_the_limits(run: Run, storage: Path, package: Package, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIONODE_MAX_BYTES", str(package.size - 1))
    status, report = run("import", package.path, "--meeting", "m1")
    assert (status, "bytes are needed" in report["error"]) == (FAILED, True)
    assert list((storage / "incoming").iterdir()) == []


def test_export_writes_the_right_package_or_nothing(run: Run, storage: Path, tmp_path: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    target = tmp_path / "out.zip"
    assert run("export", "m1", target)[0] == OK
    assert target.read_bytes() == package.path.read_bytes()
    assert run("export", "m1", target)[0] == FAILED
    flip(path_of(storage, package), package.size // 2)
    status, report = run("export", "m1", target, "--force")
    assert (status, "damaged" in report["error"]) == (FAILED, True)
    assert target.read_bytes() == package.path.read_bytes()
    assert sorted(path.name for path in tmp_path.glob(".out.zip*")) == []


def test_export_to_standard_output(run: Run, storage: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    command = [BIN / "trionode", "export", "m1", "-", "--storage-path", storage]
    assert subprocess.run(command, capture_output=True, check=True).stdout == package.path.read_bytes()


def test_diff_counts_what_an_update_fetches(run: Run, package: Package, rebuilt: Package):
    run("import", package.path, "--meeting", "m1")
    for old in (package.digest[:10], package.path):
        status, report = run("diff", "m1", old, rebuilt.path)
        assert status == OK
        assert (report["old"], report["new"], report["size"]) == (package.digest, rebuilt.digest, rebuilt.size)
        # The README is so small that it is part of the manifest.
        assert rebuilt.new_bytes - 1000 < report["bytes"] <= rebuilt.new_bytes
        assert report["chunks"] == 1
        assert report["manifest_bytes"] < 10_000
    same = run("diff", "m1", package.path, package.path)[1]
    assert (same["bytes"], same["chunks"], same["manifest_bytes"]) == (0, 0, 0)


def test_diff_asks_the_master_when_no_new_version_is_given(spawn: Spawner, folder: Path, run: Run, package: Package):
    run("import", package.path, "--meeting", "m1")
    new = rebuild(package, made_at=package.made_at + timedelta(hours=1), replaced=[0])
    status, report = run("diff", "m1", url=ShimMaster(spawn, folder).url)
    assert (status, report["old"], report["new"]) == (OK, package.digest, new.digest)
    status, report = run("diff", "m1")
    assert (status, "the master has no manifest" in report["error"]) == (FAILED, True)


async def test_a_running_node_serves_what_was_imported(node: OurNode, run: Run, tmp_path: Path):
    other = make_package(tmp_path / "other.zip", make_documents(2, 50_000, seed="other"))
    await trio.to_thread.run_sync(run, "import", other.path, "--meeting", "by-hand")

    async def served() -> bool:
        return (await node.download("by-hand")).headers.get("etag") == f'"{other.digest}"'

    await eventually(served)


async def test_an_import_does_not_replace_what_the_master_has(
    node: OurNode, run: Run, tmp_path: Path, package: Package, storage: Path
):
    other = make_package(tmp_path / "other.zip", make_documents(2, 50_000, seed="other"))
    await trio.to_thread.run_sync(run, "import", other.path, "--meeting", "m1")

    async def corrected() -> bool:
        (ref,) = (json.loads(path.read_text()) for path in (storage / "meetings").iterdir())
        return ref["digest"] == package.digest and await node.synced() == ["m1"]

    await eventually(corrected, within=20)
    assert digest_of((await node.download("m1")).content) == package.digest


def test_a_package_is_imported_before_the_node_was_ever_started(run: Run, storage: Path, package: Package):
    shutil.rmtree(storage)
    assert run("import", package.path.with_name("absent.zip"), "--meeting", "m1")[0] == USAGE
    assert not storage.exists()
    status, report = run("import", package.path, "--meeting", "m1")
    assert (status, report["version"]) == (OK, package.digest)
    assert [row["digest"] for row in run("ls")[1]["versions"]] == [package.digest]


def test_a_package_cannot_be_imported_into_a_file(run: Run, storage: Path, package: Package):
    shutil.rmtree(storage)
    storage.write_text("a file")
    status, report = run("import", package.path, "--meeting", "m1")
    assert status == USAGE
    assert f"{storage} cannot be used as storage" in report["error"]
