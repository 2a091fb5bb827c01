"""A machine that has slept asks its master at once, over new connections."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.support.local_master import local_master
from tests.support.nodes import OurNode, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from tests.support.relay import relaying
from tests.support.waiting import eventually
from trionode.heartbeat.sleep_watch import CHECK_SECONDS, SLEPT_SECONDS, seconds_asleep, watch_sleep

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Spawner

CLOCK_OF_A_FILE = """
import os, sys, time
from pathlib import Path
clock_gettime, file = time.clock_gettime, Path(os.environ["SLEPT"])

def gettime(clock):
    return clock_gettime(clock) + (float(file.read_text()) if clock == time.CLOCK_BOOTTIME else 0.0)

time.clock_gettime = gettime
from trionode.cli.main import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""
"""A node on a machine that has slept for as many seconds as a file says."""


def test_the_machine_that_runs_this_does_not_sleep_between_two_lines():
    assert abs(seconds_asleep() - seconds_asleep()) < SLEPT_SECONDS


@given(st.lists(st.one_of(st.floats(0.0, SLEPT_SECONDS - 0.1), st.floats(SLEPT_SECONDS + 0.1, 1e6)), max_size=20))
def test_every_sleep_is_noticed_once_and_nothing_else_is(sleeps: list[float]):
    asleep = 1234.5
    noticed: list[float] = []

    async def woke() -> None:
        noticed.append(trio.current_time())

    async def run() -> None:
        nonlocal asleep
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_sleep, woke, lambda: asleep)
            for number, slept in enumerate(sleeps):
                # Between two looks: the clock of the process stands still meanwhile.
                await trio.sleep_until(began + (number + 0.5) * CHECK_SECONDS)
                asleep += slept
            await trio.sleep(CHECK_SECONDS)
            nursery.cancel_scope.cancel()
        looks = [began + (number + 1) * CHECK_SECONDS for number, slept in enumerate(sleeps) if slept > SLEPT_SECONDS]
        assert noticed == looks

    trio.run(run, clock=MockClock(autojump_threshold=0))


async def test_a_node_whose_machine_has_slept_asks_over_new_connections_and_its_fill_goes_on(
    spawn: Spawner, folder: Path, tmp_path: Path
):
    package = make_package(folder / "m1.zip", make_documents(8, 1_000_000), level=0)
    slept = tmp_path / "slept"
    slept.write_text("0")
    port = free_port()
    async with local_master(folder) as master, relaying(int(master.url.rpartition(":")[2])) as relay:
        master.bytes_per_second = 400_000

        def requested() -> list[int]:
            return [count for (version, *_), count in master.ranges.items() if version == package.digest]

        env = {
            "SLEPT": str(slept),
            "MAIN_SERVER_URL": relay.url,
            "NODE_ADDRESS": f"127.0.0.1:{port}",
            "STORAGE_PATH": str(tmp_path / "storage"),
        }
        process = spawn(sys.executable, "-c", CLOCK_OF_A_FILE, "--host", "127.0.0.1", "--port", str(port), env=env)
        node = OurNode(process, port, tmp_path / "storage")
        await eventually(lambda: len(requested()) == 2, within=20)
        await node.until_logged("connected to the master")
        before = {*relay.open}
        slept.write_text("3600")
        await node.until_logged("the machine has slept")
        await eventually(lambda: {*relay.open} - before)
        master.bytes_per_second = 0
        await node.until_synced("m1")
        assert digest_of((await node.download("m1")).content) == package.digest
        assert set(requested()) == {1}, "no range was requested again"
        await eventually(lambda: not before & relay.open, what="the old connections are closed")
        assert node.process.stop(within=15) == 0
