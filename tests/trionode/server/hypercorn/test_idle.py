"""The idle time limit of a connection, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trionode.server.hypercorn.idle import IdleTask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock


class TaskGroup:
    """The part of Hypercorn's task group that an idle task uses."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.spawned = 0
        self._nursery = nursery

    def spawn(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self.spawned += 1
        self._nursery.start_soon(function, *args)


class Connection:
    """The connection that an idle task closes."""

    def __init__(self) -> None:
        self.terminated = trio.Event()
        self.closed_at: float | None = None
        self.task = IdleTask(5.0, self.terminated.wait, self.close)

    async def close(self) -> None:
        self.closed_at = trio.current_time()
        self.task.end()


async def test_a_connection_is_closed_after_its_idle_time_which_a_request_begins_anew(autojump_clock: MockClock):
    connection = Connection()
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        group = TaskGroup(nursery)
        for _ in range(3):  # a request every 4 seconds, of which it is busy for 3
            await connection.task.restart(group, None)
            await trio.sleep(4)
            await connection.task.stop()
            await trio.sleep(3)
        assert connection.closed_at is None
        await connection.task.restart(group, None)
        assert group.spawned == 1, "one task serves all idle times"
    assert connection.closed_at == began + 3 * 7 + 5


async def test_a_server_that_ends_closes_idle_connections_at_once_and_busy_ones_after_their_request(
    autojump_clock: MockClock,
):
    idle, busy = Connection(), Connection()
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        group = TaskGroup(nursery)
        for connection in (idle, busy):
            await connection.task.restart(group, None)
        await trio.sleep(1)
        await busy.task.stop()
        for connection in (idle, busy):
            connection.terminated.set()
        await trio.sleep(100)
        await busy.task.restart(group, None)
    assert (idle.closed_at, busy.closed_at) == (began + 1, began + 101)


async def test_a_request_that_comes_as_the_idle_time_ends_is_answered_or_the_connection_is_closed(
    autojump_clock: MockClock,
):
    """Both are woken in one pass, in any order."""
    ends = set[float]()
    for _ in range(40):
        connection = Connection()
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            group = TaskGroup(nursery)
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


async def test_the_task_of_a_connection_that_has_ended_returns(autojump_clock: MockClock):
    connection = Connection()
    async with trio.open_nursery() as nursery:
        await connection.task.restart(TaskGroup(nursery), None)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        connection.task.end()
    assert connection.closed_at is None
    assert trio.current_time() == began
