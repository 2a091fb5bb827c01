"""The request to end a server."""

from __future__ import annotations

import trio
import trio.testing

from trionode.server.runner import Shutdown


async def is_now(shutdown: Shutdown) -> bool:
    """Return whether the server has to end at once."""
    ended: list[bool] = []

    async def wait() -> None:
        await shutdown.wait_now()
        ended.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return bool(ended)


async def test_the_second_request_ends_at_once_but_a_second_drain_does_not():
    shutdown = Shutdown()
    for _ in range(2):
        shutdown.begin()
        assert shutdown.requested
        assert not await is_now(shutdown)
    shutdown.request()
    assert await is_now(shutdown)
