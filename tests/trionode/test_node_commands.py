"""The commands that look after a storage folder: alone, and beside a node that runs on it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from store import DiskStore, Ref
from tests.support.nodes import BIN, digest_of
from tests.support.packages import make_documents, make_package, rebuild
from tests.support.processes import free_port
from tests.support.waiting import eventually
from trionode.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

    Run = Callable[..., tuple[int, dict[str, Any]]]

OK, FAILED, USAGE, REPAIRED = 0, 1, 2, 4


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    DiskStore.open(path).close()
    return path


@pytest.fixture
def rebuilt(package: Package, folder: Path) -> Package:
    """`package` with one of its six documents replaced."""
    later = package.made_at + timedelta(hours=1)
    return rebuild(package, made_at=later, replaced=[2], path=folder / "m1-rebuilt.zip")


@pytest.fixture
def run(storage: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with `--json` on the storage; returns its exit status and what it printed."""

    def run(*arguments: str | Path, url: str = "http://127.0.0.1:9") -> tuple[int, dict[str, Any]]:
        more = ["--main-server", url] if arguments[0] in {"verify", "diff"} else []
        status = main([*map(str, arguments), "--json", "--storage-path", str(storage), *more])
        out, err = capfd.readouterr()
        return status, json.loads(out) if out else {"error": err}

    return run


def path_of(storage: Path, package: Package) -> Path:
    return storage / "packages" / f"{package.digest}.zip"


def flip(path: Path, offset: int) -> None:
    """Change a byte as a careless program would, or a disk."""
    fd = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte ^ 0x40]), offset)
    finally:
        os.close(fd)


def serve_master(spawn: Spawner, folder: Path) -> str:
    """Run a small master with the shim; return its URL."""
    port = free_port()
    process = spawn.python(
        "-m", "master_shim", "serve", "--packages", folder, "--host", "127.0.0.1", "--port", str(port)
    )
    process.wait_port(port)
    return f"http://127.0.0.1:{port}"


# -- alone


def test_ls_says_what_is_shared_pinned_and_of_whom(run: Run, package: Package, rebuilt: Package):
    assert run("import", package.path, "--meeting", "m1", "--title", "Board")[0] == OK
    assert run("import", rebuilt.path, "--meeting", "m2", "--pin")[0] == OK
    status, report = run("ls")
    assert status == OK
    rows = {row["digest"]: row for row in report["versions"]}
    assert rows.keys() == {package.digest, rebuilt.digest}
    assert report["stored"] == package.size + rebuilt.size
    assert report["node"] is None
    first, second = rows[package.digest], rows[rebuilt.digest]
    assert [meeting["id"] for meeting in first["meetings"]] == ["m1"]
    assert (first["meetings"][0]["title"], first["pinned"], second["pinned"]) == ("Board", False, True)
    assert first["sending"] is None
    # Five of six documents of 200 kB are in both.
    assert first["shared"] == second["shared"]
    assert 4.9 * 200_000 < first["shared"] < 5.1 * 200_000


def test_ls_for_people_names_every_version(
    run: Run, storage: Path, package: Package, capfd: pytest.CaptureFixture[str]
):
    assert run("import", package.path, "--meeting", "会议-1", "--title", "董事会")[0] == OK
    assert main(["ls", "--storage-path", str(storage)]) == OK
    out = capfd.readouterr().out
    for part in (package.digest[:12], "会议-1", "董事会", "imported", "no node is running"):
        assert part in out


def test_a_title_is_shown_as_it_is_and_on_one_line(
    run: Run, storage: Path, package: Package, capfd: pytest.CaptureFixture[str]
):
    title = "[/red] a\n\x1b[2Jb [bold]c"
    assert run("import", package.path, "--meeting", "m", "--title", title)[0] == OK
    with DiskStore.open(storage) as store:  # as a node of an earlier version has written it
        (ref,) = store.refs()
        assert ref.title == "[/red] a [2Jb [bold]c"
        store.set_ref(replace(ref, title=title))
    assert main(["ls", "--storage-path", str(storage)]) == OK
    assert "[/red] a [2Jb [bold]c" in capfd.readouterr().out


def test_what_is_no_storage_folder_is_refused_and_not_made_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    nowhere = tmp_path / "nowhere"
    for command in (["ls"], ["verify"], ["gc"], ["pin", "m"], ["evict", "m"], ["export", "m", "f"], ["diff", "m"]):
        assert main([*command, "--storage-path", str(nowhere)]) == USAGE
        said = capfd.readouterr().err
        assert f"{nowhere} is no storage folder" in said
        assert "--storage-path, STORAGE_PATH" in said
    assert not nowhere.exists()


@pytest.mark.parametrize("command", [["pin"], ["unpin"], ["evict"], ["export"]])
def test_what_is_not_here_is_named(run: Run, tmp_path: Path, command: list[str]):
    more = [tmp_path / "out.zip"] if command == ["export"] else []
    for word in ("m-unknown", "abcd", "ab", "", "../m1"):
        status, report = run(*command, word, *more)
        assert status == USAGE
        assert repr(word) in report["error"]
    assert not (tmp_path / "out.zip").exists()


def test_a_version_is_known_by_its_first_digits_and_a_meeting_by_its_id(run: Run, package: Package, rebuilt: Package):
    run("import", package.path, "--meeting", "m1")
    run("import", rebuilt.path, "--meeting", package.digest[:8])  # an id that looks like digits is an id
    assert run("pin", package.digest[:8])[1]["version"] == rebuilt.digest
    assert run("pin", package.digest[:9])[1]["meetings"] == ["m1"]


def test_pins_come_and_go_and_protect(run: Run, storage: Path, package: Package):
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


def test_a_version_two_meetings_have_is_evicted_with_the_second(run: Run, storage: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    run("import", package.path, "--meeting", "m2")
    assert run("evict", "m1")[1]["removed"] is False
    assert path_of(storage, package).exists()
    assert run("evict", "m2")[1]["freed"] == package.size
    assert run("ls")[1]["versions"] == []


def test_a_meeting_in_progress_is_evicted_only_by_force(run: Run, storage: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    with DiskStore.open(storage) as store:
        (ref,) = store.refs()
        store.set_ref(Ref(ref.meeting_id, ref.digest, in_progress=True))
    status, report = run("evict", package.digest)
    assert (status, "in progress" in report["error"]) == (FAILED, True)
    assert run("evict", package.digest, "--force")[0] == OK


def test_import_takes_packages_and_nothing_else(run: Run, storage: Path, tmp_path: Path, package: Package):
    (tmp_path / "letter.txt").write_text("no zip")
    status, report = run("import", tmp_path / "letter.txt", "--meeting", "m1")
    assert (status, "not a package" in report["error"]) == (FAILED, True)
    assert run("import", tmp_path / "missing.zip", "--meeting", "m1")[0] == USAGE
    assert run("import", package.path, "--meeting", "../m1")[0] == USAGE
    assert list((storage / "incoming").iterdir()) == []
    assert list((storage / "meetings").iterdir()) == []


def test_import_within_the_limits(run: Run, storage: Path, package: Package, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIONODE_MAX_BYTES", str(package.size - 1))
    status, report = run("import", package.path, "--meeting", "m1")
    assert (status, "bytes are needed" in report["error"]) == (FAILED, True)
    assert list((storage / "incoming").iterdir()) == []


def test_export_gives_the_package_or_nothing(run: Run, storage: Path, tmp_path: Path, package: Package):
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
        # The README is so small that it travels inside the manifest.
        assert rebuilt.new_bytes - 1000 < report["bytes"] <= rebuilt.new_bytes
        assert report["chunks"] == 1
        assert report["manifest_bytes"] < 10_000
    same = run("diff", "m1", package.path, package.path)[1]
    assert (same["bytes"], same["chunks"], same["manifest_bytes"]) == (0, 0, 0)


def test_diff_asks_the_master_when_no_new_version_is_given(
    spawn: Spawner, folder: Path, run: Run, package: Package, tmp_path: Path
):
    run("import", package.path, "--meeting", "m1")
    new = rebuild(package, made_at=package.made_at + timedelta(hours=1), replaced=[0])
    status, report = run("diff", "m1", url=serve_master(spawn, folder))
    assert (status, report["old"], report["new"]) == (OK, package.digest, new.digest)
    status, report = run("diff", "m1")
    assert (status, "the master has no manifest" in report["error"]) == (FAILED, True)


def test_gc_removes_what_no_meeting_has_once_it_is_old(run: Run, storage: Path, package: Package, rebuilt: Package):
    run("import", package.path, "--meeting", "m1")
    run("import", rebuilt.path, "--meeting", "m1")
    assert run("gc")[1]["removed"] == []  # tablets may be on their way to it
    hour_ago = time.time() - 3600
    os.utime(path_of(storage, package).with_suffix(".json"), (hour_ago, hour_ago))
    would = run("gc", "--dry-run")
    assert would[0] == OK
    assert [row["digest"] for row in would[1]["removed"]] == [package.digest]
    assert path_of(storage, package).exists()
    assert run("gc")[1]["freed"] == package.size
    assert not path_of(storage, package).exists()
    assert run("gc")[1]["removed"] == []


def test_gc_keeps_the_limits_or_says_why_not(run: Run, storage: Path, package: Package, rebuilt: Package):
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


# -- verify


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


def test_a_package_that_opening_drops_is_no_success(run: Run, storage: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    flip(path_of(storage, package), 300_000)
    path_of(storage, package).with_suffix(".json").unlink()
    status, report = run("verify")
    assert (status, report["dropped"], report["findings"][0]["digest"]) == (FAILED, 1, package.digest)


def test_repair_fetches_only_what_is_bad(spawn: Spawner, folder: Path, run: Run, storage: Path, package: Package):
    run("import", package.path, "--meeting", "m1")
    url = serve_master(spawn, folder)
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


def test_repair_takes_from_another_version_what_it_has(run: Run, storage: Path, package: Package, rebuilt: Package):
    run("import", package.path, "--meeting", "m1")
    run("import", rebuilt.path, "--meeting", "m2")
    flip(path_of(storage, package), 300_000)  # the second document, which both have; no master answers
    assert run("verify", "--repair")[0] == REPAIRED
    assert path_of(storage, package).read_bytes() == package.path.read_bytes()


def test_what_nobody_has_any_more_is_dropped_and_what_cannot_be_asked_for_now_stays(
    spawn: Spawner, folder: Path, run: Run, storage: Path, package: Package
):
    run("import", package.path, "--meeting", "m1")
    flip(path_of(storage, package), 300_000)
    status, report = run("verify", "--repair")  # nobody answers
    assert (status, report["damaged"]) == (FAILED, 1)
    assert "cannot be reached" in report["findings"][0]["reason"]
    assert path_of(storage, package).exists()
    make_package(package.path, make_documents(2, 10_000, seed="other"))
    status, report = run("verify", "--repair", url=serve_master(spawn, folder))
    assert (status, report["dropped"]) == (FAILED, 1)
    assert run("ls")[1]["versions"] == []
    assert list((storage / "meetings").iterdir()) == []


# -- beside a node that runs


@pytest.fixture
async def node(spawn: Spawner, folder: Path, package: Package, storage: Path, start_node: StartNode) -> OurNode:
    """A node with the package of the meeting m1, on the storage of the commands."""
    node = start_node(serve_master(spawn, folder), storage=storage)
    await node.until_synced("m1")
    return node


async def test_ls_and_verify_disturb_no_node(node: OurNode, run: Run, folder: Path):
    big = make_package(folder / "big.zip", make_documents(6, 3_000_000), level=1)  # more than fits into sockets
    await node.until_synced("big")
    async with httpx.AsyncClient(trust_env=False) as client, client.stream("GET", node.package_url("big")) as answer:
        status, report = await trio.to_thread.run_sync(run, "ls")
        rows = {row["meetings"][0]["id"]: row for row in report["versions"]}
        assert (status, rows.keys()) == (OK, {"m1", "big"})
        assert report["node"] == (await node.status())["node_id"]
        assert (rows["big"]["digest"], rows["big"]["meetings"][0]["in_progress"]) == (big.digest, True)
        assert (rows["big"]["sending"], rows["m1"]["sending"]) == (1, 0)
        assert (await trio.to_thread.run_sync(run, "verify"))[0] == OK
        assert digest_of(await answer.aread()) == big.digest

    async def sent() -> bool:
        return (await node.status())["sending"] == {}

    await eventually(sent)
    assert sorted(await node.synced()) == ["big", "m1"]


async def test_a_running_node_sees_pins(node: OurNode, run: Run, package: Package, folder: Path, storage: Path):
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


async def test_a_running_node_serves_what_was_imported(node: OurNode, run: Run, tmp_path: Path):
    other = make_package(tmp_path / "other.zip", make_documents(2, 50_000, seed="other"))
    await trio.to_thread.run_sync(run, "import", other.path, "--meeting", "by-hand")

    async def served() -> bool:
        return (await node.download("by-hand")).headers.get("etag") == f'"{other.digest}"'

    await eventually(served)


async def test_an_import_never_passes_for_what_the_master_has(
    node: OurNode, run: Run, tmp_path: Path, package: Package, storage: Path
):
    other = make_package(tmp_path / "other.zip", make_documents(2, 50_000, seed="other"))
    await trio.to_thread.run_sync(run, "import", other.path, "--meeting", "m1")

    async def corrected() -> bool:
        (ref,) = (json.loads(path.read_text()) for path in (storage / "meetings").iterdir())
        return ref["digest"] == package.digest and await node.synced() == ["m1"]

    await eventually(corrected, within=20)
    assert digest_of((await node.download("m1")).content) == package.digest


async def test_a_repair_by_a_command_is_taken_by_the_node(node: OurNode, run: Run, storage: Path, package: Package):
    flip(path_of(storage, package), 300_000)
    url = (await node.status())["main_server"]
    status, _ = await trio.to_thread.run_sync(lambda: run("verify", "--repair", url=url))
    # The node may have been quicker: both make the same bytes.
    assert status in {OK, REPAIRED}
    assert path_of(storage, package).read_bytes() == package.path.read_bytes()
    assert digest_of((await node.download("m1")).content) == package.digest
