"""The fake deployed node and tablet behave as the deployed ones."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

from tests.fakes.tablet import Download, Tablet, TabletError
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.packages import Package


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return make_package(tmp_path / "m1.zip", make_documents(5, 40_000))


@pytest.fixture
def master(fakes: FakeFactory, tmp_path: Path, package: Package) -> RunningMaster:
    return fakes.master(tmp_path)


async def test_node_registers_syncs_opens_the_gate_and_serves(
    fakes: FakeFactory, master: RunningMaster, package: Package
):
    node = fakes.node(master.url)
    await eventually(lambda: master.state()["nodes"])
    master.start("m1")
    await eventually(lambda: master.gate_opened("m1"))
    beat = master.state()["heartbeats"][-1]
    assert (beat["active_meetings"], beat["synced_meetings"]) == (
        [{"id": "m1", "title": "Meeting m1"}],
        ["m1"],
    )
    for path in ("api/v1/meetings/m1/download-package", "api/meetings/m1/download"):
        answer = httpx.get(f"{node.url}/{path}", headers={"Origin": "http://tablet"}, trust_env=False)
        assert answer.status_code == 200
        assert len(answer.content) == package.size
        assert answer.headers["content-disposition"] == 'attachment; filename="meeting_m1.zip"'
        assert answer.headers["access-control-allow-origin"] == "*"
    status = httpx.get(f"{node.url}/api/status", trust_env=False).json()
    assert status["sync_status"] == "同步成功"
    (meeting,) = status["active_meetings"]
    assert (meeting["id"], meeting["size"], meeting["file_count"]) == ("m1", package.size, 6)
    assert meeting["status"] == "active"
    assert httpx.get(f"{node.url}/health", trust_env=False).json()["status"] == "healthy"
    node.process.stop()
    assert master.state()["unregistrations"] == [f"legacy-{node.port}"]


async def test_node_serves_the_stale_package_after_a_restart(
    fakes: FakeFactory, master: RunningMaster, package: Package
):
    node = fakes.node(master.url)
    master.start("m1")
    await eventually(lambda: node.storage.joinpath("m1/package.zip").exists())
    master.restart("m1")
    beats = len(master.state()["heartbeats"])
    await eventually(lambda: len(master.state()["heartbeats"]) > beats + 2)
    assert node.storage.joinpath("m1/package.zip").stat().st_size == package.size
    assert master.state()["by_meeting"] == {"m1": 1}


async def test_node_falls_back_to_the_token_and_understands_the_single_field(
    fakes: FakeFactory, master: RunningMaster, tmp_path: Path
):
    make_package(tmp_path / "m2.zip", make_documents(1, 1000))
    master.behave(status_node=False, token_list="all")
    node = fakes.node(master.url)
    master.start("m1")
    await eventually(lambda: node.storage.joinpath("m1/package.zip").exists())
    master.end("m1")
    master.behave(status_node=True, status_node_shape="single")
    master.start("m2")
    await eventually(lambda: node.storage.joinpath("m2/package.zip").exists())


async def test_node_pulls_on_demand_answers_404_and_503(fakes: FakeFactory, master: RunningMaster, package: Package):
    node = fakes.node(master.url, interval=60)
    await eventually(lambda: master.state()["heartbeats"])
    master.start("m1")
    url = f"{node.url}/api/v1/meetings"
    assert len(httpx.get(f"{url}/m1/download-package", trust_env=False).content) == package.size
    missing = httpx.get(f"{url}/nowhere/download-package", trust_env=False)
    assert (missing.status_code, missing.json()) == (404, {"detail": "Meeting package not found"})
    httpx.post(f"{node.url}/api/service/stop", trust_env=False)
    assert httpx.get(f"{url}/m1/download-package", trust_env=False).status_code == 503


async def test_tablet_waits_for_a_token_and_downloads(fakes: FakeFactory, master: RunningMaster, package: Package):
    async with Tablet(master.url, poll_seconds=0.05) as tablet:
        assert await tablet.poll() is None  # the token is "none"
        with pytest.raises(TabletError):
            await tablet.data("m1")
        master.start("m1")
        (download,) = await tablet.attend()
        assert (download.digest, download.size, download.tries) == (package.digest, package.size, 1)
        assert (download.node, download.expected, download.failures) == (master.address, None, [])


async def test_tablet_follows_the_redirect_to_a_node(fakes: FakeFactory, master: RunningMaster, package: Package):
    node = fakes.node(master.url)
    await eventually(lambda: master.state()["nodes"])
    master.start("m1")
    async with Tablet(master.url, poll_seconds=0.05) as tablet:
        (download,) = await tablet.attend(redirect=True)
    assert (download.digest, download.node, download.expected) == (package.digest, node.address, package.size)
    assert master.state()["redirects"] == {node.address: 1}


async def test_tablet_tries_each_entry_three_times_and_steps_on(master: RunningMaster, package: Package):
    master.start("m1")
    good = master.direct_url("m1")
    dead = f"http://127.0.0.1:{free_port()}/nothing"
    missing = f"{master.url}/nothing"
    async with Tablet(master.url, choose=lambda count: count - 1) as tablet:
        found = await tablet.download(Download("m1"), [missing, good, good, dead])
        assert (found.digest, found.tries, len(found.failures)) == (package.digest, 7, 6)
        assert "ConnectError" in found.failures[0]
        assert "status 404" in found.failures[-1]
        never = await tablet.download(Download("m1"), [dead, missing, good, missing])
        assert (never.ok, never.tries) == (False, 9), "three entries, not more"


async def test_tablet_counts_only_a_whole_200_in_time(master: RunningMaster, package: Package):
    master.start("m1")
    await eventually(lambda: master.gate_opened("m1"))
    async with Tablet(master.url, headers_seconds=0.3) as tablet:
        for mode in ("cut", "500", "hang"):
            master.behave(mode=mode)
            found = await tablet.fetch("m1")
            assert (found.ok, found.tries) == (False, 3)
        master.behave(mode="truncated")
        wrong = await tablet.fetch("m1")
        assert wrong.ok, "the tablet accepts a truncated zip with a complete HTTP body"
        assert wrong.digest != package.digest


async def test_tablet_chooses_uniformly_at_random(fakes: FakeFactory, master: RunningMaster, package: Package):
    nodes = [fakes.node(master.url, interval=0.1), fakes.node(master.url, interval=0.1)]
    await eventually(lambda: len(master.state()["nodes"]) == 2)
    master.start("m1")
    await eventually(lambda: master.gate_opened("m1"))
    master.behave(redirect=False)  # otherwise the master's own entry redirects to a node, too
    seen: set[str] = set()

    async def draw() -> None:
        seen.add((await tablet.fetch("m1")).node)

    async with Tablet(master.url) as tablet, anyio.create_task_group() as tasks:
        # 60 draws from 3 miss one of them in one of 10 billion runs.
        for _ in range(60):
            tasks.start_soon(draw)
    assert seen == {master.address, *(node.address for node in nodes)}


async def test_many_tablets_under_trio(master: RunningMaster, package: Package):
    master.start("m1")
    await eventually(lambda: master.gate_opened("m1"))
    found: list[Download] = []

    async def one() -> None:
        async with Tablet(master.url) as tablet:
            found.append(await tablet.fetch("m1", redirect=True))

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(one)
    assert {download.digest for download in found} == {package.digest}
    assert len(found) == 30


def test_spawned_processes_are_gone(fakes: FakeFactory, master: RunningMaster):
    assert master.process.peak_memory() > 1_000_000
    fakes.spawn.clean_up()
    with pytest.raises(ProcessLookupError):
        os.kill(master.process.pid, 0)
