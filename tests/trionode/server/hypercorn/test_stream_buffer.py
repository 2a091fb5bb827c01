"""The buffer of an HTTP/2 stream: who fills it waits until it is nearly empty."""

from __future__ import annotations

import trio
import trio.testing
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BUFFER_LOW_WATER, StreamBuffer
from hypercorn.trio.worker_context import EventWrapper

from trionode.server.hypercorn.stream_buffer import BoundedStreamBuffer

PIECE = bytes(BUFFER_HIGH_WATER)


async def pushes_while_blocked(kind: type[StreamBuffer]) -> int:
    """Return how many pushes return while nothing can be sent."""
    buffer, pushed = kind(EventWrapper), 0

    async def push() -> None:
        nonlocal pushed
        for _ in range(20):
            await buffer.push(PIECE)
            pushed += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        for _ in range(20):
            await trio.testing.wait_all_tasks_blocked()
            assert await buffer.pop(0) == b""
        nursery.cancel_scope.cancel()
    return pushed


async def test_a_blocked_stream_does_not_wake_who_fills_it():
    assert await pushes_while_blocked(BoundedStreamBuffer) == 0


async def test_that_of_hypercorn_does():
    """The reason for the work-around: if this fails, Hypercorn has corrected it."""
    assert await pushes_while_blocked(StreamBuffer) > 10


async def test_all_bytes_pass_in_order_and_the_buffer_stays_small():
    buffer = BoundedStreamBuffer(EventWrapper)
    data = bytes(range(256)) * 2000
    popped = bytearray()

    async def push() -> None:
        for start in range(0, len(data), 50_000):
            await buffer.push(data[start : start + 50_000])
        buffer.set_complete()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        while not buffer.complete:
            await trio.testing.wait_all_tasks_blocked()
            assert len(buffer.buffer) <= BUFFER_LOW_WATER + 2 * 50_000
            popped += await buffer.pop(10_000)
    assert popped == data
    with trio.fail_after(5):
        await buffer.drain()
