"""Packages that never fit, or not now; eviction in favour of others; full disks. Others are served meanwhile."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from store import Ref, Store
from tests.support.clients import asking
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, OurNode, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import children, free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

MB = 1_000_000


def need(tool: str) -> str:
    """Return the path of a program from Debian; in CI one that is missing is a failure."""
    path = shutil.which(tool)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{tool} is missing")
        pytest.skip(f"{tool} is missing")
    return path


@pytest.fixture
def put(folder: Path) -> Callable[..., Package]:
    """Return a function that puts a package at the master: `put("m1", 2_000_000)` starts the meeting m1."""

    def put(meeting_id: str, size: int, **options: Any) -> Package:
        count = max(1, size // (10 * MB))
        documents = make_documents(count, size // count, seed=meeting_id)
        return make_package(folder / f"{meeting_id}.zip", documents, level=1, **options)

    return put


@pytest.fixture
def master_url(spawn: Spawner, folder: Path) -> str:
    return ShimMaster(spawn, folder).url


def node_on_tmpfs(spawn: Spawner, master_url: str, storage: Path, size: str, *before: str) -> OurNode:
    """Run a node on a tmpfs that ends with it; `before` are shell commands to run there first."""
    port = free_port()
    storage.mkdir()
    lines = (
        f"mount -t tmpfs -o size={size} tmpfs {storage}",
        *before,
        f"exec {BIN / 'trionode'} serve --host 127.0.0.1 --port {port}",
    )
    unshare = [need("unshare"), "--mount"] if os.geteuid() == 0 else [need("unshare"), "--map-root-user", "--mount"]
    env = {"MAIN_SERVER_URL": master_url, "NODE_ADDRESS": f"127.0.0.1:{port}", "STORAGE_PATH": str(storage)}
    process = spawn(*unshare, "sh", "-e", "-c", "\n".join(lines), env=env, name="node-on-tmpfs")
    return OurNode(process, port, storage)


async def lacks(node: OurNode, meeting_id: str) -> dict[str, Any] | None:
    (found,) = [m["lacks_room"] for m in (await node.status())["active_meetings"] if m["id"] == meeting_id] or [None]
    return found


async def until_lacking(node: OurNode, meeting_id: str, *, never: bool, within: float = 30.0) -> dict[str, Any]:
    await node.until_up()

    async def found() -> dict[str, Any] | None:
        room = await lacks(node, meeting_id)
        return room if room is not None and room["never_fits"] is never else None

    return await eventually(found, within=within, what=f"{meeting_id} lacks room")


async def serves(node: OurNode, package: Package, meeting_id: str) -> None:
    answer = await node.download(meeting_id)
    assert (answer.status_code, digest_of(answer.content)) == (200, package.digest)


# -- limits


async def test_a_package_that_never_fits_is_logged_once_and_refused_with_507(
    master_url: str, put: Callable[..., Package], start_node: StartNode
):
    small, big = put("small", MB), put("big", 5 * MB)
    node = start_node(master_url, max_bytes=3 * MB, sync_interval=1)
    room = await until_lacking(node, "big", never=True)
    assert (room["needed"], room["available"]) == (big.size, 3 * MB)
    await node.until_synced("small")
    for _ in range(3):
        answer = await node.download("big")
        assert answer.status_code == 507
        assert str(big.size) in answer.json()["detail"]
        assert (await node.download("big", params={"v": big.digest})).status_code == 507
        await serves(node, small, "small")
    status = await node.status()
    assert "never fits" in next(m["reason"] for m in status["active_meetings"] if m["id"] == "big")
    assert status["versions_evicted"] == 0
    shown = await trio.run_process([BIN / "trionode", "status", node.url], capture_stdout=True)
    assert "never fits" in " ".join(shown.stdout.decode().split())
    # Every full check has tried again; it is logged once.
    assert node.process.log().count("a package never fits") == 1
    assert not list((node.storage / "incoming").iterdir())


async def test_a_reload_that_raises_the_limit_lets_a_package_fit(
    master_url: str, put: Callable[..., Package], start_node: StartNode, tmp_path: Path
):
    big = put("big", 5 * MB)
    config = tmp_path / "node.toml"
    config.write_text(f"max_bytes = {3 * MB}\n")
    node = start_node(master_url, config=config)
    await until_lacking(node, "big", never=True)
    config.write_text(f"max_bytes = {9 * MB}\n")
    await trio.run_process([BIN / "trionode", "reload", "--storage-path", node.storage], capture_stdout=True)
    await node.until_synced("big", within=30)
    await serves(node, big, "big")


async def test_a_package_that_does_not_fit_now_is_fetched_as_soon_as_it_does(
    master_url: str, put: Callable[..., Package], start_node: StartNode, folder: Path
):
    first = put("first", 2 * MB)
    node = start_node(master_url, max_bytes=3 * MB)
    await node.until_synced("first")
    second = put("second", 2 * MB)
    await until_lacking(node, "second", never=False)
    answer = await node.download("second")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    await serves(node, first, "first")
    (folder / "first.zip").unlink()
    await node.until_synced("second", within=30)
    await serves(node, second, "second")
    assert (await node.download("first", params={"v": first.digest})).status_code == 404


async def test_a_meeting_that_has_ended_is_evicted_for_another_one_when_its_downloads_are_complete(
    master_url: str, put: Callable[..., Package], start_node: StartNode, folder: Path
):
    first = put("first", 20 * MB)
    node = start_node(master_url, max_bytes=30 * MB)
    await node.until_synced("first")
    async with asking(node.port, "/api/v1/meetings/first/download-package") as client:
        head = await client.read_head()
        assert head.startswith(b"HTTP/1.1 200")
        (folder / "first.zip").unlink()
        second = put("second", 20 * MB)
        await until_lacking(node, "second", never=False)
        assert digest_of(await client.read_rest()) == first.digest
    await node.until_synced("second", within=30)
    await serves(node, second, "second")


async def test_the_versions_that_ended_first_are_evicted_first_and_pinned_ones_never(
    tmp_path: Path, master_url: str, put: Callable[..., Package], start_node: StartNode
):
    storage = tmp_path / "old-storage"
    old = {name: make_package(tmp_path / f"{name}.zip", make_documents(1, MB, seed=name)) for name in "abcd"}
    with Store.open(storage) as store:
        for number, (name, package) in enumerate(old.items()):
            stream = store.begin_stream(name)
            stream.append(package.path.read_bytes())
            digest = stream.commit().digest
            stream.close()
            ended_at = time.time() - 7200
            store.set_ref(Ref(name, digest, in_progress=False, pinned=name == "a", ended_at=ended_at))
            used = time.time() - 7200 + number * 60
            os.utime(storage / "packages" / f"{digest}.json", (used, used))
    node = start_node(master_url, storage=storage, max_bytes=5 * MB)
    await node.until_up()
    new = put("new", 2 * MB)
    await node.until_synced("new")
    await serves(node, new, "new")
    left = {path.stem for path in (storage / "packages").glob("*.zip")}
    assert {old["a"].digest, new.digest} <= left
    assert old["b"].digest not in left
    # Down to the low-water mark, so that the next one does not have to evict again.
    assert sum(path.stat().st_size for path in (storage / "packages").glob("*.zip")) <= 0.9 * 5 * MB
    assert old["d"].digest in left


async def test_room_is_made_while_a_stream_of_unknown_length_grows(
    fakes: Any, tmp_path: Path, folder: Path, start_node: StartNode
):
    storage = tmp_path / "old-storage"
    with Store.open(storage) as store:
        for name in "abcdefgh":
            package = make_package(tmp_path / f"{name}.zip", make_documents(1, 3 * MB, seed=name))
            stream = store.begin_stream(name)
            stream.append(package.path.read_bytes())
            digest = stream.commit().digest
            stream.close()
            store.set_ref(Ref(name, digest, in_progress=False, ended_at=1.0))
    make_package(folder / "m1.zip", make_documents(8, 2 * MB, seed="new"), level=1)
    master = fakes.master(folder)
    node = start_node(master.url, storage=storage, max_bytes=25 * MB)
    await node.until_up()
    started = master.start("m1")
    await node.until_synced("m1", within=30)
    assert digest_of((await node.download("m1")).content) == started["digest"]
    # One transfer was enough: room was made in the middle of it.
    assert master.state()["downloads_begun"] == 1
    assert (await node.status())["versions_evicted"] > 0


# -- full disks


async def test_a_package_of_100_mb_on_a_disk_of_64(
    spawn: Spawner, master_url: str, put: Callable[..., Package], tmp_path: Path
):
    small, _ = put("small", 2 * MB), put("big", 100 * MB)
    node = node_on_tmpfs(spawn, master_url, tmp_path / "disk", "64m")
    await until_lacking(node, "big", never=True)
    await node.until_synced("small")
    for _ in range(5):
        assert (await node.download("big")).status_code == 507
        await serves(node, small, "small")
    more = put("more", 30 * MB)
    await node.until_synced("small", "more", within=30)
    await serves(node, more, "more")
    assert await lacks(node, "big") is not None
    assert node.process.log().count("a package never fits") == 1
    assert node.process.stop() == 0


async def test_a_package_waits_while_other_programs_fill_the_disk(
    spawn: Spawner, master_url: str, put: Callable[..., Package], tmp_path: Path
):
    package = put("m1", 30 * MB)
    storage = tmp_path / "disk"
    node = node_on_tmpfs(spawn, master_url, storage, "64m", f"head -c 50000000 /dev/zero > {storage}/of-others")
    room = await until_lacking(node, "m1", never=False)
    assert room["available"] < 20 * MB < room["needed"]
    assert (await node.download("m1")).status_code == 503
    assert "never fits" not in node.process.log()
    Path(f"/proc/{node.process.pid}/root{storage}/of-others").unlink()
    await node.until_synced("m1", within=40)
    await serves(node, package, "m1")


async def test_a_full_disk_evicts_ended_meetings(
    spawn: Spawner, master_url: str, put: Callable[..., Package], tmp_path: Path
):
    old = make_package(tmp_path / "old.zip", make_documents(4, 10 * MB, seed="old"), level=1)
    storage = tmp_path / "disk"
    python = f"{sys.executable} -c"
    node = node_on_tmpfs(
        spawn,
        master_url,
        storage,
        "64m",
        f"""{python} 'from store import Store; Store.open("{storage}").close()'""",
        f"{BIN / 'trionode'} import {old.path} --meeting old",
    )
    await node.until_up()
    await serves(node, old, "old")
    new = put("new", 40 * MB)
    await node.until_synced("new", within=30)
    await serves(node, new, "new")
    assert (await node.status())["versions_evicted"] == 1
    # Now there is no room, since the new one is in progress.
    put("third", 40 * MB)
    await until_lacking(node, "third", never=False)
    assert (await node.download("third")).status_code == 503
    await serves(node, new, "new")


async def test_a_disk_of_1_mib(spawn: Spawner, master_url: str, put: Callable[..., Package], tmp_path: Path):
    small, _ = put("small", 300_000), put("big", 1_200_000)
    node = node_on_tmpfs(spawn, master_url, tmp_path / "disk", "1m")
    await node.until_synced("small")
    await until_lacking(node, "big", never=True)
    put("second", 800_000)
    await until_lacking(node, "second", never=False)
    for _ in range(5):
        await serves(node, small, "small")
        assert (await node.download("big")).status_code == 507
        assert (await node.download("second")).status_code == 503
    assert await node.synced() == ["small"]
    assert node.process.stop() == 0


@pytest.mark.parametrize("point", ["posix/io/rw/pwrite", "posix/io/oc/open", "posix/io/sync/fdatasync"])
async def test_a_disk_that_reports_that_it_is_full_or_fails(
    spawn: Spawner, master_url: str, put: Callable[..., Package], tmp_path: Path, point: str
):
    port = free_port()
    first = put("first", 2 * MB)
    env = {
        "MAIN_SERVER_URL": master_url,
        "NODE_ADDRESS": f"127.0.0.1:{port}",
        "STORAGE_PATH": str(tmp_path / "storage"),
        "TMPDIR": str(tmp_path),
    }
    serve = (BIN / "trionode", "serve", "--host", "127.0.0.1", "--port", str(port))
    node = OurNode(spawn(need("fiu-run"), "-x", *serve, env=env, name="fiu"), port, tmp_path / "storage")
    await node.until_synced("first")
    (pid,) = [node.process.pid] if is_python(node.process.pid) else children(node.process.pid)

    async def control(command: str) -> None:
        await trio.run_process([need("fiu-ctrl"), "-f", str(tmp_path / "fiu-ctrl"), "-c", command, str(pid)])

    await control(f"enable name={point},failinfo=28")
    second = put("second", 2 * MB)
    if point == "posix/io/rw/pwrite":
        await until_lacking(node, "second", never=False)
        assert (await node.download("second")).status_code == 503

    async def failed() -> bool:
        await serves(node, first, "first")  # all the time
        return "meeting not synced meeting=second" in node.process.log()

    await eventually(failed, within=30)
    await serves(node, first, "first")
    assert await node.synced() == ["first"]
    await control(f"disable name={point}")
    await node.until_synced("first", "second", within=40)
    await serves(node, second, "second")


def is_python(pid: int) -> bool:
    return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


async def test_a_node_needs_no_proc(spawn: Spawner, master_url: str, package: Package, tmp_path: Path):
    node = node_on_tmpfs(spawn, master_url, tmp_path / "storage", "100M", "mount -t tmpfs tmpfs /proc")
    await node.until_synced("m1")
    (meeting,) = (await node.status())["active_meetings"]
    assert meeting["file_count"] == 7
    assert "no control socket" not in node.process.log()
