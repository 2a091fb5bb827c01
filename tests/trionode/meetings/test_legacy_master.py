"""A node and a deployed master without the shim: every part of its protocol that a node depends on."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from tests.support.nodes import STARTS, Start, digest_of
from tests.support.packages import make_documents, make_package, rebuild
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode


@pytest.fixture
def master(fakes: FakeFactory, folder: Path, package: Package) -> RunningMaster:
    return fakes.master(folder)


def names_in(data: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return archive.namelist()


@pytest.mark.parametrize("how", STARTS)
async def test_every_start_syncs_serves_and_unregisters(master: RunningMaster, start_node: StartNode, how: Start):
    started = master.start("m1")
    node = start_node(master.url, how=how)
    await node.until_synced("m1")
    answer = await node.download("m1")
    assert answer.status_code == 200
    assert digest_of(answer.content) == started["digest"]
    assert answer.headers["etag"] == f'"{started["digest"]}"'
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="meeting_m1.zip"'
    assert answer.headers["access-control-allow-origin"] == "*"
    assert (await node.get("/api/meetings/m1/download")).content == answer.content
    assert len(master.state()["nodes"]) == 1
    assert node.process.stop() == 0
    assert master.state()["nodes"] == {}


async def test_a_node_opens_the_deployed_start_gate(
    fakes: FakeFactory, folder: Path, package: Package, start_node: StartNode
):
    # The deployed intervals: a check every 5 s, and 3 s after it. A node that is 10 s late would open it at 18 s.
    master = fakes.master(folder, intervals={})
    node = start_node(master.url)
    await eventually(lambda: master.state()["nodes"], within=20)
    master.start("m1")
    await eventually(lambda: master.gate_opened("m1"), within=30)
    gate = master.state()["meetings"]["m1"]["gate"]
    assert not gate.get("gave_up")
    beat = next(beat for beat in master.state()["heartbeats"] if beat["synced_meetings"])
    assert beat["synced_meetings"] == ["m1"]
    assert [meeting["id"] for meeting in beat["active_meetings"]] == ["m1"]
    assert digest_of((await node.download("m1")).content) == master.state()["meetings"]["m1"]["digest"]


@pytest.mark.parametrize("how", STARTS)
async def test_a_meeting_that_begins_just_after_the_node_has_polled_is_not_answered_404(
    master: RunningMaster, start_node: StartNode, how: Start
):
    node = start_node(master.url, how=how)
    await eventually(lambda: master.state()["nodes"])
    assert (await node.download("m1")).status_code == 404
    started = master.start("m1")
    answer = await node.download("m1")
    assert answer.status_code == 200
    assert digest_of(answer.content) == started["digest"]


async def test_a_meeting_that_restarts_between_two_polls_is_noticed(master: RunningMaster, start_node: StartNode):
    old = master.start("m1")
    node = start_node(master.url)
    await node.until_synced("m1")
    new = master.restart("m1")
    assert new["digest"] != old["digest"]

    async def serves_the_new_one() -> bool:
        return digest_of((await node.download("m1")).content) == new["digest"]

    await eventually(serves_the_new_one, within=20)
    # Once the token has changed, the old package is not advertised as current.
    await node.until_synced("m1")
    assert digest_of((await node.download("m1")).content) == new["digest"]


async def test_an_unchanged_package_is_not_fetched_again(fakes: FakeFactory, folder: Path, start_node: StartNode):
    for meeting_id in ("a", "b"):
        make_package(folder / f"{meeting_id}.zip", make_documents(2, 400_000, seed=meeting_id), level=1)
    master = fakes.master(folder)
    master.start("a")
    node = start_node(master.url, sync_interval=1)
    await node.until_synced("a")
    await eventually(lambda: master.gate_opened("a"))
    master.start("b")
    await node.until_synced("a", "b")
    await eventually(lambda: master.gate_opened("b"))
    # Several polls with the new token, and full checks, go by: a package is only begun again, to be compared.
    await eventually(lambda: master.state()["downloads_begun"] >= 5, within=20)
    assert (await node.status())["bytes_fetched"] < 2 * 800_000 + 5 * 300_000


async def test_packages_are_served_without_the_master_and_after_a_restart(master: RunningMaster, start_node: StartNode):
    started = master.start("m1")
    node = start_node(master.url)
    await node.until_synced("m1")
    master.kill()
    assert digest_of((await node.download("m1")).content) == started["digest"]
    node.process.stop()
    again = start_node(master.url, storage=node.storage)
    await again.until_up()
    answer = await again.download("m1")
    assert answer.status_code == 200
    assert digest_of(answer.content) == started["digest"]
    assert "失败" in (await again.status())["sync_status"]
    assert (await again.download("m2")).status_code == 503


@pytest.mark.parametrize("gate_open", [False, True])
async def test_a_package_that_was_rebuilt_while_the_node_was_down_is_noticed_behind_its_beginning(
    master: RunningMaster, folder: Path, start_node: StartNode, gate_open: bool
):
    old = master.start("m1")
    node = start_node(master.url)
    await node.until_synced("m1")
    await eventually(lambda: master.gate_opened("m1"))
    node.process.stop()
    documents = make_documents(6, 200_000)
    rebuilt = make_package(folder / ".new", [*documents[:-1], replace(documents[-1], seed="rebuilt")], level=1)
    assert rebuilt.path.read_bytes()[: 256 << 10] == (folder / "m1.zip").read_bytes()[: 256 << 10]
    rebuilt.path.replace(folder / "m1.zip")
    new = master.restart("m1")
    assert new["digest"] != old["digest"]
    if gate_open:
        await eventually(lambda: master.gate_opened("m1"))
    again = start_node(master.url, storage=node.storage)
    await again.until_up()
    assert digest_of((await again.download("m1")).content) == new["digest"]


def asked(master: RunningMaster) -> Counter[str]:
    """Return the kinds of requests that the master was sent, with their number."""
    kinds: Counter[str] = Counter()
    for request, count in master.state()["requests"].items():
        kinds[request.rpartition("/")[2]] += count
    return kinds


@pytest.mark.parametrize("how", STARTS)
async def test_what_was_confirmed_under_the_same_token_costs_the_master_nothing_after_a_restart(
    fakes: FakeFactory, folder: Path, start_node: StartNode, how: Start
):
    names = [f"m{number}" for number in range(30)]
    for name in names:
        make_package(folder / f"{name}.zip", make_documents(1, 20_000, seed=name), level=1)
    master = fakes.master(folder)
    for name in names:
        master.start(name)
    node = start_node(master.url, how=how)
    await eventually(lambda: all(master.gate_opened(name) for name in names), within=30)

    def are_confirmed() -> bool:
        refs = [json.loads(path.read_text()) for path in (node.storage / "meetings").iterdir()]
        return len(refs) == len(names) and {ref["token"] for ref in refs} == {master.state()["token"]}

    await eventually(are_confirmed, within=20)
    node.process.stop()
    master.reset()
    again = start_node(master.url, how=how, storage=node.storage)
    await again.until_synced(*names)
    requests = asked(master)
    assert requests.keys() == {"register", "heartbeat", "node", "manifest"}
    assert requests["manifest"] == 1
    again.process.stop()
    # Under another token everything is fetched again: its packages may be others.
    master.restart("m0")
    master.reset()
    other = start_node(master.url, how=how, storage=node.storage)
    await other.until_synced(*names)
    assert asked(master)["download-package-direct"] >= len(names)


async def test_a_full_poll_after_a_restart_compares_the_beginning_of_a_package(
    master: RunningMaster, package: Package, start_node: StartNode
):
    master.start("m1")
    node = start_node(master.url)
    await eventually(lambda: master.gate_opened("m1"), within=20)

    def is_confirmed() -> bool:
        return bool(json.loads((node.storage / "meetings" / "m1.json").read_text())["token"] == master.state()["token"])

    await eventually(is_confirmed)
    node.process.stop()
    master.reset()
    again = start_node(master.url, storage=node.storage, sync_interval=1)
    await again.until_synced("m1")
    await eventually(lambda: asked(master)["download-package-direct"], within=20)
    assert (await again.status())["bytes_fetched"] < package.size / 2


async def test_a_node_starts_without_its_master_and_waits_for_it(master: RunningMaster, start_node: StartNode):
    master.kill()
    node = start_node(master.url)
    await node.until_up()
    assert await node.synced() == []
    master.run_again("m1")
    await node.until_synced("m1", within=30)
    await eventually(lambda: len(master.state()["nodes"]) == 1, within=30)


async def test_a_node_registers_again_at_a_master_that_has_forgotten_it(master: RunningMaster, start_node: StartNode):
    master.start("m1")
    node = start_node(master.url)
    await node.until_synced("m1")
    master.kill()
    master.run_again("m1")
    await eventually(lambda: master.state()["nodes"], within=30)


@pytest.mark.parametrize(
    "quirks",
    [
        {"status_node": False},
        {"status_node": False, "token_list": "all"},
        {"status_node_shape": "single"},
        {"body": "lines"},
    ],
)
async def test_masters_of_every_version_are_understood(
    fakes: FakeFactory, folder: Path, package: Package, start_node: StartNode, quirks: dict[str, Any]
):
    make_package(folder / "not-started.zip", make_documents(1, 1000, seed="x"))
    master = fakes.master(folder, **quirks)
    started = master.start("m1")
    node = start_node(master.url)
    await node.until_synced("m1")
    assert digest_of((await node.download("m1")).content) == started["digest"]
    assert [meeting["id"] for meeting in (await node.status())["active_meetings"]] == ["m1"]


@pytest.mark.parametrize("mode", ["500", "error-txt", "empty", "not-zip", "truncated", "cut"])
async def test_an_answer_that_is_no_package_is_neither_stored_nor_advertised(
    master: RunningMaster, start_node: StartNode, mode: str
):
    master.behave(mode=mode)
    started = master.start("m1")
    node = start_node(master.url)
    await eventually(lambda: master.state()["by_meeting"].get("m1", 0) >= 2, within=20)
    assert await node.synced() == []
    answer = await node.download("m1")
    assert answer.status_code in {502, 503, 404}
    assert answer.json().keys() == {"detail"}
    assert not list((node.storage / "packages").iterdir())
    assert all(beat["synced_meetings"] == [] for beat in master.state()["heartbeats"])
    # The next answer that is one is stored.
    master.behave(mode="ok")
    await node.until_synced("m1", within=30)
    assert digest_of((await node.download("m1")).content) == started["digest"]


async def test_a_readme_alone_is_a_package(master: RunningMaster, start_node: StartNode):
    master.behave(mode="readme-only")
    master.start("m1")
    node = start_node(master.url)
    await node.until_synced("m1")
    assert names_in((await node.download("m1")).content) == ["README.txt"]


@pytest.mark.parametrize("mode", ["cut", "truncated"])
async def test_clients_that_follow_a_failed_fill_get_an_error_and_no_short_file(
    fakes: FakeFactory, folder: Path, start_node: StartNode, mode: str
):
    make_package(folder / "m1.zip", make_documents(4, 1_000_000), level=1)
    master = fakes.master(folder, mode=mode, bytes_per_second=2_000_000)
    master.start("m1")
    node = start_node(master.url)

    async def follow() -> str:
        try:
            answer = await node.download("m1")
        except httpx.RemoteProtocolError:
            return "cut"
        assert answer.status_code == 503
        return "refused"

    await eventually(lambda: master.state()["downloads_begun"], within=20)
    outcomes = set()
    while "cut" not in outcomes:
        with trio.fail_after(60):
            outcomes.add(await follow())


async def test_clients_follow_a_slow_fill_and_the_master_sends_one_copy(
    fakes: FakeFactory, folder: Path, start_node: StartNode
):
    package = make_package(folder / "m1.zip", make_documents(4, 1_000_000), level=1)
    master = fakes.master(folder, bytes_per_second=500_000)
    node = start_node(master.url)
    await node.until_up()
    started = master.start("m1")
    await eventually(lambda: master.state()["downloads_begun"])
    answers: list[httpx.Response] = []

    async def follow() -> None:
        answers.append(await node.download("m1"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(follow)
    assert [answer.status_code for answer in answers] == [200] * 20
    assert {digest_of(answer.content) for answer in answers} == {started["digest"]}
    # The fill was still in progress when they came: its size was not known.
    assert all("content-length" not in answer.headers for answer in answers)
    # One copy; and, once the gate has opened, the beginning of what is stored already, to compare it.
    assert package.size <= master.state()["bytes_sent"] < package.size + 500_000


async def test_http_1_0_gets_a_length_or_nothing(
    fakes: FakeFactory, folder: Path, start_node: StartNode, spawn: Spawner
):
    package = make_package(folder / "m1.zip", make_documents(2, 1_000_000), level=1)
    master = fakes.master(folder, bytes_per_second=1_500_000)
    node = start_node(master.url)
    await node.until_up()
    master.start("m1")
    await eventually(lambda: master.state()["downloads_begun"])
    curl = spawn("curl", "-s", "-i", "--http1.0", "-o", folder / "out", node.package_url("m1"))
    assert curl.wait(within=30) == 0
    head, _, body = (folder / "out").read_bytes().partition(b"\r\n\r\n")
    assert f"content-length: {package.size}".encode() in head.lower()
    assert len(body) == package.size


async def test_an_ended_meeting_is_not_advertised_and_its_version_is_kept_for_late_tablets(
    master: RunningMaster, start_node: StartNode
):
    started = master.start("m1")
    node = start_node(master.url)
    await node.until_synced("m1")
    master.end("m1")

    async def gone() -> bool:
        return await node.synced() == []

    await eventually(gone, within=20)
    assert digest_of((await node.download("m1")).content) == started["digest"]
    (ref,) = (json.loads(path.read_text()) for path in (node.storage / "meetings").iterdir())
    assert ref["in_progress"] is False


async def test_a_rebuilt_package_does_not_disturb_downloads_of_the_old_one(
    master: RunningMaster, folder: Path, package: Package, start_node: StartNode
):
    master.start("m1")
    node = start_node(master.url)
    await node.until_synced("m1")
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", node.package_url("m1")) as answer,
    ):
        old = answer.headers["etag"]
        rebuild(package, made_at=package.made_at + timedelta(hours=1), replaced=[1])
        new = master.restart("m1")

        async def switched() -> bool:
            return (await node.download("m1")).headers.get("etag") == f'"{new["digest"]}"'

        await eventually(switched, within=20)
        assert f'"{digest_of(await answer.aread())}"' == old


async def test_a_node_waits_for_a_package_that_is_still_being_built(master: RunningMaster, start_node: StartNode):
    master.behave(mode="404")
    started = master.start("m1")
    node = start_node(master.url)
    path = "GET /api/v1/meetings/m1/download-package-direct"
    await eventually(lambda: master.state()["requests"].get(path, 0) >= 3, within=30)
    assert node.process.log().count("meeting not synced") == 1
    assert await node.synced() == []
    master.behave(mode="ok")
    await node.until_synced("m1")
    assert digest_of((await node.download("m1")).content) == started["digest"]
