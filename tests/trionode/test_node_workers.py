"""Several processes that are one node: one copy from the origin, one id, one load; who is killed is replaced."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.support.clients import asking
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, OurNode, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import children, free_port
from tests.support.relay import relaying
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.fakes.running import FakeFactory
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

PATH = "/api/v1/meetings/big/download-package"
WORKERS = 3


@pytest.fixture
def big(folder: Path) -> Package:
    return make_package(folder / "big.zip", make_documents(4, 3_000_000), level=1)


@pytest.fixture
def master(spawn: Spawner, folder: Path, big: Package) -> ShimMaster:
    return ShimMaster(spawn, folder)


def leader_of(node: OurNode) -> int:
    """Return the process that holds the storage's lock open."""
    lock = str(node.storage / "node.lock")
    for pid in workers_of(node):
        try:
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                if str(fd.readlink()) == lock:
                    return pid
        except FileNotFoundError:
            continue
    raise AssertionError("no worker leads")


def workers_of(node: OurNode) -> list[int]:
    return sorted(pid for pid in children(node.process.pid) if "resource_tracker" not in command_of(pid))


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def until_complete(node: OurNode, count: int = WORKERS) -> None:
    """Wait until all workers work together: the leader counts those that follow it."""

    async def check() -> bool:
        return (await node.status())["workers"] == count

    await eventually(check, within=30, what=f"{count} workers")


async def download_many(node: OurNode, count: int) -> list[httpx.Response]:
    """Download over that many connections at once; they come to all workers."""
    answers: list[httpx.Response] = []

    async def one() -> None:
        answers.append(await node.download("big"))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return answers


async def test_they_are_one_node(master: ShimMaster, big: Package, start_node: StartNode):
    node = start_node(master.url, workers=WORKERS)
    await node.until_synced("big")
    await until_complete(node)
    assert len(workers_of(node)) == WORKERS
    assert [entry["address"] for entry in master.nodes()] == [f"127.0.0.1:{node.port}"]
    answers = await download_many(node, 12)
    assert [answer.status_code for answer in answers] == [200] * 12, [a.text for a in answers if a.status_code != 200]
    assert {digest_of(answer.content) for answer in answers} == {big.digest}

    async def all_counted() -> bool:
        # Whichever process answers, it speaks for all.
        reports = [await node.status() for _ in range(6)]
        return {report["downloads_finished"] for report in reports} == {12} and {
            report["bytes_sent"] for report in reports
        } == {12 * big.size}

    await eventually(all_counted)
    metrics = (await node.get("/metrics")).text
    assert 'trionode_downloads_total{outcome="sent"} 12' in metrics
    assert node.process.stop(within=15) == 0
    assert master.nodes() == []


@pytest.mark.parametrize("origin", ["shim", "legacy"])
async def test_the_origin_sends_one_copy_and_all_workers_follow_it(
    fakes: FakeFactory, spawn: Spawner, folder: Path, big: Package, start_node: StartNode, origin: str
):
    port = (ShimMaster(spawn, folder) if origin == "shim" else fakes.master(folder, started=("big",))).port
    async with relaying(port, 1e9) as relay:
        node = start_node(relay.url, workers=WORKERS)
        await node.until_up()
        relay.rate = 4_000_000
        answers = await download_many(node, 20)
        assert [answer.status_code for answer in answers] == [200] * 20
        sent = {digest_of(answer.content) for answer in answers}
        assert len(sent) == 1
        await node.until_synced("big")
        assert sent == {(await node.status())["active_meetings"][0]["version"]}
        assert relay.received < 1.1 * big.size + 300_000
        assert node.process.stop(within=15) == 0


async def test_a_follower_survives_the_death_of_the_process_that_fetches(
    master: ShimMaster, big: Package, start_node: StartNode
):
    async with relaying(master.port, 3_000_000) as relay:
        node = start_node(relay.url, workers=WORKERS)
        await node.until_up()

        async def filling() -> bool:
            return [m["state"] for m in (await node.status())["active_meetings"]] == ["filling"]

        await eventually(filling, within=20)
        await until_complete(node)
        outcomes: list[str] = []

        async def follow() -> None:
            try:
                answer = await node.download("big")
            except httpx.HTTPError:
                outcomes.append("cut")  # its own process was killed
            else:
                outcomes.append(digest_of(answer.content) if answer.status_code == 200 else answer.text)

        async with trio.open_nursery() as nursery:
            for _ in range(24):
                nursery.start_soon(follow)

            async def many_follow() -> bool:
                return relay.received > big.size // 3 and (await node.status())["active_downloads"] > 10

            await eventually(many_follow, within=20)
            os.kill(leader_of(node), signal.SIGKILL)
        assert set(outcomes) <= {"cut", big.digest}
        assert outcomes.count(big.digest) >= 3, outcomes
        # What was verified is not fetched again, but what was on its way is.
        assert relay.received < 1.5 * big.size
        await node.until_synced("big")
        await until_complete(node)
        assert node.process.stop(within=15) == 0


async def test_whoever_is_killed_is_replaced_and_nothing_else_falls(
    master: ShimMaster, big: Package, start_node: StartNode
):
    node = start_node(master.url, workers=WORKERS)
    await node.until_synced("big")
    await until_complete(node)
    chance = random.Random(7)
    over = trio.Event()
    whole = cut = 0

    async def client() -> None:
        nonlocal whole, cut
        while not over.is_set():
            try:
                answer = await node.download("big")
            except httpx.HTTPError:
                cut += 1
                continue
            assert answer.status_code == 200, answer.text
            assert digest_of(answer.content) == big.digest
            whole += 1

    leaders: set[int] = set()
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(client)
        for turn in range(6):
            await until_complete(node)
            before = whole
            await eventually(lambda b=before: whole >= b + 5, within=30, what="downloads that go on")
            leader = leader_of(node)
            leaders.add(leader)
            # The leader every other time: that is the harder one.
            victim = leader if turn % 2 else chance.choice(workers_of(node))
            os.kill(victim, signal.SIGKILL)
            await eventually(lambda v=victim: v not in workers_of(node))
        over.set()
    await until_complete(node)
    assert len(leaders) > 1
    assert cut <= 6 * 8
    assert (await node.download("big")).status_code == 200
    assert [entry["status"] for entry in master.nodes()] == ["online"]
    assert node.process.returncode is None
    assert node.process.log().count("is replaced") == 6
    assert node.process.stop(within=15) == 0
    assert master.nodes() == []


async def test_the_load_is_summed_and_the_limit_is_of_all(master: ShimMaster, big: Package, start_node: StartNode):
    node = start_node(master.url, workers=WORKERS, max_downloads=6, queue_seconds=0)
    await node.until_synced("big")
    await until_complete(node)
    answers: list[int] = []
    release = trio.Event()

    async def hold(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with asking(node.port, PATH) as client:
            head = await client.read_head()
            answers.append(int(head.split()[1]))
            task_status.started()
            if answers[-1] == 200:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(client.read_slowly, 200_000)
                        await release.wait()
                        scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(hold)

        async def summed() -> bool:
            return [(await node.status())["active_downloads"] for _ in range(5)] == [6] * 5

        await eventually(summed)
        await eventually(lambda: len(answers) == 12)
        assert sorted(answers) == [200] * 6 + [503] * 6
        load = master.get("/api/v1/nodes/list").json()
        assert len(load) == 1
        release.set()

    async def free() -> bool:
        return (await node.status())["active_downloads"] == 0

    await eventually(free)
    assert (await node.download("big")).status_code == 200
    assert node.process.stop(within=15) == 0


async def test_they_drain_together(master: ShimMaster, big: Package, start_node: StartNode):
    node = start_node(master.url, workers=WORKERS)
    await node.until_synced("big")
    await until_complete(node)
    got: list[str] = []

    async def slow() -> None:
        async with asking(node.port, PATH) as client:
            await client.read_head()
            with trio.move_on_after(2):
                await client.read_slowly(1_000_000)
            got.append(digest_of(await client.read_rest()))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(slow)

        async def all_active() -> bool:
            return (await node.status())["active_downloads"] == 6

        await eventually(all_active)
        node.process.send_signal(signal.SIGTERM)
        await eventually(lambda: master.nodes() == [])
        codes = {(await node.get("/ready")).status_code for _ in range(8)}
        assert codes == {503}
        assert node.process.returncode is None
    assert got == [big.digest] * 6
    assert node.process.wait(within=15) == 0


async def test_a_second_signal_ends_them_now(master: ShimMaster, big: Package, start_node: StartNode):
    node = start_node(master.url, workers=2, drain_seconds=600)
    await node.until_synced("big")
    await until_complete(node, 2)
    async with asking(node.port, PATH) as client, trio.open_nursery() as nursery:
        await client.read_head()
        nursery.start_soon(client.read_slowly, 100_000)
        node.process.send_signal(signal.SIGINT)
        await eventually(lambda: master.nodes() == [])
        node.process.send_signal(signal.SIGINT)
        assert await trio.to_thread.run_sync(lambda: node.process.wait(within=10)) == 0
        nursery.cancel_scope.cancel()


async def test_one_that_is_told_alone_hands_over_and_is_replaced(
    master: ShimMaster, big: Package, start_node: StartNode
):
    node = start_node(master.url, workers=2)
    await node.until_synced("big")
    await until_complete(node, 2)
    leader = leader_of(node)
    os.kill(leader, signal.SIGTERM)
    await eventually(lambda: leader not in workers_of(node), within=15)
    await until_complete(node, 2)
    assert leader_of(node) != leader
    assert len(master.nodes()) == 1
    assert (await node.download("big")).status_code == 200
    assert node.process.stop(within=15) == 0


async def test_workers_whose_parent_is_killed_end(master: ShimMaster, big: Package, start_node: StartNode):
    node = start_node(master.url, workers=2)
    await node.until_synced("big")
    await until_complete(node, 2)
    pids = workers_of(node)
    node.process.kill()
    await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), within=20)


async def test_a_storage_that_is_taken_ends_them_all_with_status_2(
    master: ShimMaster, big: Package, start_node: StartNode
):
    node = start_node(master.url)
    await node.until_synced("big")
    other = start_node(master.url, storage=node.storage, workers=2)
    assert other.process.wait(within=20) == 2
    assert "taken" in other.process.log()
    assert (await node.download("big")).status_code == 200


@pytest.mark.parametrize("worker_class", ["asyncio", "trio"])
async def test_workers_of_hypercorn_are_one_node(
    master: ShimMaster, big: Package, spawn: Spawner, tmp_path: Path, worker_class: str
):
    port = free_port()
    async with relaying(master.port) as relay:
        node = OurNode(
            spawn(
                *(BIN / "hypercorn", "-k", worker_class, "-w", "2", "-b", f"127.0.0.1:{port}", "trionode:app"),
                env={
                    "MAIN_SERVER_URL": relay.url,
                    "NODE_ADDRESS": f"127.0.0.1:{port}",
                    "STORAGE_PATH": str(tmp_path / "s"),
                },
                name=f"hypercorn-w-{worker_class}",
            ),
            port,
            tmp_path / "s",
        )
        await node.until_up()
        await until_complete(node, 2)
        answers = await download_many(node, 10)
        assert {digest_of(answer.content) for answer in answers} == {big.digest}
        assert len(master.nodes()) == 1
        assert relay.received < 1.1 * big.size + 100_000
        done = await command("drain", node)
        assert done.returncode == 0, done.stderr
        assert "stop the server now" in done.stdout
        assert master.nodes() == []
        assert {(await node.get("/ready")).status_code for _ in range(6)} == {503}
        assert node.process.stop(within=20) == 0


async def command(name: str, node: OurNode) -> subprocess.CompletedProcess[str]:
    """Run `trionode NAME` for a node's storage."""
    return await trio.to_thread.run_sync(
        lambda: subprocess.run(
            [BIN / "trionode", name, "--storage-path", node.storage],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    )


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_command_drain_returns_when_the_node_has_ended(
    master: ShimMaster, big: Package, start_node: StartNode, workers: int
):
    node = start_node(master.url, workers=workers)
    await node.until_synced("big")
    await until_complete(node, workers)
    async with asking(node.port, PATH) as client, trio.open_nursery() as nursery:
        await client.read_head()

        async def read() -> None:
            """Read on until the node drains, and the rest a while after."""
            async with trio.open_nursery() as reading:
                reading.start_soon(client.read_slowly, 200_000)

                async def drains() -> bool:
                    return (await node.get("/ready")).status_code == 503

                await eventually(drains, within=20)
                await trio.sleep(0.5)
                reading.cancel_scope.cancel()
            assert digest_of(await client.read_rest()) == big.digest

        nursery.start_soon(read)
        done = await command("drain", node)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "the node has ended"), done.stderr
        assert "draining; downloads going on: 1" in done.stdout
    assert node.process.wait(within=5) == 0
    done = await command("drain", node)
    assert done.returncode == 3
    assert "no node runs on the storage folder" in done.stderr


async def test_the_command_reload_changes_all_workers(master: ShimMaster, big: Package, spawn: Spawner, tmp_path: Path):
    port, file = free_port(), tmp_path / "node.toml"

    def write(**settings: object) -> None:
        table = {
            "main_server": master.url,
            "node_address": f"127.0.0.1:{port}",
            "host": "127.0.0.1",
            "port": port,
            "storage_path": str(tmp_path / "s"),
            "workers": 2,
            **settings,
        }
        lines = (f"{k} = {v}" if isinstance(v, int) else f'{k} = "{v}"' for k, v in table.items())
        file.write_text("\n".join(lines))

    write(max_downloads=5)
    node = OurNode(spawn(BIN / "trionode", "serve", "--config", file, name="reloaded"), port, tmp_path / "s")
    await node.until_synced("big")
    await until_complete(node, 2)
    write(max_downloads=9, sync_interval=77)
    done = await command("reload", node)
    assert (done.returncode, done.stdout) == (0, "changed: max_downloads; needs a restart: sync_interval\n")

    async def limits() -> bool:
        return {(await node.status())["max_downloads"] for _ in range(8)} == {9}

    await eventually(limits)
    write(max_downloads="many")
    done = await command("reload", node)
    assert done.returncode == 2
    assert "everything stays as it is" in done.stdout
    assert "'max_downloads'" in done.stdout
    assert await limits()
    # One that is started later has what is in force, not what was at the start.
    write(max_downloads=11)
    assert (await command("reload", node)).returncode == 0
    os.kill(leader_of(node), signal.SIGKILL)
    await eventually(lambda: "is replaced" in node.process.log())
    await until_complete(node, 2)
    assert {(await node.status())["max_downloads"] for _ in range(8)} == {11}
    assert node.process.stop(within=15) == 0
