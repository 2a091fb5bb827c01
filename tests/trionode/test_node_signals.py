"""Signals and idle times: who is woken when, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from hypothesis import given
from hypothesis import strategies as st

from trionode.server.idle import IdleTask
from trionode.signals import WAKE_AT_ONCE, Signal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

WAITING = 50


class Passes(trio.abc.Instrument):
    """Counts passes of the loop."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_signal_wakes_all_a_few_in_each_pass_in_their_order():
    signal, passes, woken = Signal(), Passes(), list[tuple[int, int]]()

    async def wait(number: int) -> None:
        await signal.wait()
        woken.append((number, passes.count))

    async with trio.open_nursery() as nursery:
        for number in range(WAITING):
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(passes)
        signal.give()
    trio.lowlevel.remove_instrument(passes)
    # In one pass, Trio runs tasks in any order.
    in_pass = [at for _, at in sorted(woken)]
    assert len(in_pass) == WAITING
    assert in_pass == sorted(in_pass)
    assert max(in_pass.count(at) for at in in_pass) <= WAKE_AT_ONCE


@given(st.sets(st.integers(0, WAITING - 1)), st.sets(st.integers(0, WAITING - 1)))
def test_one_that_is_cancelled_keeps_no_other_from_hearing(before: set[int], meanwhile: set[int]):
    """Cancelled while it waits, or in the pass in which it is woken."""

    async def main() -> None:
        signal, heard = Signal(), set[int]()
        scopes = [trio.CancelScope() for _ in range(WAITING)]

        async def wait(number: int) -> None:
            with scopes[number]:
                await signal.wait()
                heard.add(number)

        async with trio.open_nursery() as nursery:
            for number in range(WAITING):
                nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
            for number in before:
                scopes[number].cancel()
            await trio.testing.wait_all_tasks_blocked()
            signal.give()
            for number in meanwhile:
                scopes[number].cancel()
        assert set(range(WAITING)) - before - meanwhile <= heard <= set(range(WAITING)) - before

    trio.run(main)


async def test_who_waits_again_waits_for_the_next_signal():
    signal, heard = Signal(), list[int]()

    async def wait_twice(number: int) -> None:
        for _ in range(2):
            await signal.wait()
            heard.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(WAITING):
            nursery.start_soon(wait_twice, number)
        for rounds in range(2):
            await trio.testing.wait_all_tasks_blocked()
            assert len(heard) == rounds * WAITING
            signal.give()
    assert len(heard) == 2 * WAITING


class Spawner:
    """As much of Hypercorn's task group as an idle task needs."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def spawn(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self._nursery.start_soon(function, *args)


class Connection:
    """What an idle task closes."""

    def __init__(self) -> None:
        self.terminated = trio.Event()
        self.closed_at: float | None = None
        self.task = IdleTask(5.0, self.terminated.wait, self.close)

    async def close(self) -> None:
        self.closed_at = trio.current_time()
        self.task.end()


async def test_a_connection_is_closed_when_it_was_idle_long_enough(autojump_clock: MockClock):
    connection = Connection()
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        group = Spawner(nursery)
        for _ in range(3):  # a request every 4 seconds, of which it is busy for 3
            await connection.task.restart(group, None)
            await trio.sleep(4)
            await connection.task.stop()
            await trio.sleep(3)
        assert connection.closed_at is None
        await connection.task.restart(group, None)
    assert connection.closed_at == began + 3 * 7 + 5


async def test_a_server_that_ends_closes_what_is_idle_and_waits_for_what_is_busy(autojump_clock: MockClock):
    idle, busy = Connection(), Connection()
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        group = Spawner(nursery)
        for connection in (idle, busy):
            await connection.task.restart(group, None)
        await trio.sleep(1)
        await busy.task.stop()
        for connection in (idle, busy):
            connection.terminated.set()
        await trio.sleep(100)
        await busy.task.restart(group, None)
    assert (idle.closed_at, busy.closed_at) == (began + 1, began + 101)


async def test_a_request_that_comes_as_the_time_is_over_is_answered_or_finds_the_connection_closed(
    autojump_clock: MockClock,
):
    """Both are woken in one pass, in any order."""
    ends = set[float]()
    for _ in range(40):
        connection = Connection()
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            group = Spawner(nursery)
            await connection.task.restart(group, None)
            await trio.sleep_until(began + 5)
            if connection.closed_at is None:
                await connection.task.stop()
                await trio.sleep(100)
                assert connection.closed_at is None
                await connection.task.restart(group, None)
        assert connection.closed_at is not None
        ends.add(connection.closed_at - began)
    assert ends == {5, 110}


async def test_a_connection_that_has_ended_leaves_no_task(autojump_clock: MockClock):
    connection = Connection()
    async with trio.open_nursery() as nursery:
        await connection.task.restart(Spawner(nursery), None)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        connection.task.end()
    assert connection.closed_at is None
    assert trio.current_time() == began
