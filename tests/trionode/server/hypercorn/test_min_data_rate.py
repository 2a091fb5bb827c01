"""The minimum data rate, in virtual time: what a client must take, and when the limit changes."""

from __future__ import annotations

import socket as stdlib_socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from trionode.server.hypercorn.min_data_rate import LAST_SECONDS, RECHECK_SECONDS, MinDataRate
from trionode.server.hypercorn.sendfile import send_bytes

if TYPE_CHECKING:
    from trio.testing import MockClock

BUFFER = 16 << 10
LARGE = bytes(4 << 20)
"""More than the socket buffers between two ends."""


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """A clock that jumps when the kernel has nothing more to do either."""
    autojump_clock.autojump_threshold = 0.01
    return autojump_clock


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return the two ends of a TCP connection with small buffers: the sender's and the client's."""
    listener = trio.socket.socket()
    listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, BUFFER)
    await listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    client = trio.socket.socket()
    client.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, BUFFER)
    await client.connect(listener.getsockname())
    ours, _ = await listener.accept()
    listener.close()
    return trio.SocketStream(ours), trio.SocketStream(client)


async def take(stream: trio.SocketStream, count: int, every: float) -> None:
    """Read `count` bytes in each period of `every` seconds."""
    while True:
        left = count
        while left:
            left -= len(await stream.receive_some(left))
        await trio.sleep(every)


async def seconds_until_given_up(rate: MinDataRate, *, count: int, every: float, within: float) -> float | None:
    """Return after how many seconds a client that takes `count` bytes in each period was given up; None if it was not.

    `within` is how long it is observed.
    """
    ours, theirs = await tcp_pair()
    began = trio.current_time()
    async with ours, theirs, trio.open_nursery() as nursery:
        if count:
            nursery.start_soon(take, theirs, count, every)
        try:
            with trio.move_on_after(within):
                await send_bytes(ours, LARGE, rate)
            return None
        except trio.TooSlowError:
            return trio.current_time() - began
        finally:
            nursery.cancel_scope.cancel()


async def test_a_client_well_above_the_minimum_rate_is_served(clock: MockClock):
    rate = MinDataRate(seconds=10, bytes=10_000)
    assert await seconds_until_given_up(rate, count=4_000, every=1, within=100) is None


async def test_a_client_well_below_the_minimum_rate_is_given_up(clock: MockClock):
    rate = MinDataRate(seconds=10, bytes=40_000)
    seconds = await seconds_until_given_up(rate, count=1_000, every=1, within=300)
    assert seconds is not None
    assert seconds <= 30, "the buffers are full after a period or two"


async def test_a_client_that_takes_nothing_is_given_up_after_one_period(clock: MockClock):
    seconds = await seconds_until_given_up(MinDataRate(seconds=10), count=0, every=1, within=300)
    assert seconds == pytest.approx(10)


async def test_a_limit_that_is_lowered_takes_effect_during_a_wait(clock: MockClock):
    rate = MinDataRate(seconds=1000)
    async with trio.open_nursery() as nursery:

        async def lower() -> None:
            await trio.sleep(50)
            rate.configure(20, 64 << 10)

        nursery.start_soon(lower)
        seconds = await seconds_until_given_up(rate, count=0, every=1, within=3000)
    assert seconds is not None
    assert 50 <= seconds <= 50 + 2 * RECHECK_SECONDS


async def test_at_the_end_of_the_server_a_client_that_has_stopped_reading_is_given_up_soon(clock: MockClock):
    rate = MinDataRate(seconds=1000)
    rate.begin_ending()
    seconds = await seconds_until_given_up(rate, count=0, every=1, within=3000)
    assert seconds is not None
    assert seconds <= 2 * LAST_SECONDS, "the client's buffer may take a byte in the first period"


async def test_at_the_end_of_the_server_a_slow_client_continues(clock: MockClock):
    rate = MinDataRate(seconds=30, bytes=1 << 20)
    rate.begin_ending()
    assert await seconds_until_given_up(rate, count=20_000, every=LAST_SECONDS / 2, within=100) is None


async def test_a_piece_has_the_time_of_one_period(clock: MockClock):
    rate, began = MinDataRate(seconds=10, bytes=5_000), trio.current_time()
    assert rate.piece_bytes == 5_000
    with pytest.raises(trio.TooSlowError), rate.for_piece():
        await trio.sleep_forever()
    assert trio.current_time() - began == pytest.approx(10)


async def test_at_the_end_of_the_server_pieces_that_wait_get_less_time(clock: MockClock):
    rate, began, ended = MinDataRate(seconds=100), trio.current_time(), list[float]()

    async def wait() -> None:
        with pytest.raises(trio.TooSlowError), rate.for_piece():
            await trio.sleep_forever()
        ended.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(20)
        rate.begin_ending()
        nursery.start_soon(wait)
    assert ended == pytest.approx([20 + LAST_SECONDS] * 2)


async def test_a_limit_of_no_bytes_still_requires_one(clock: MockClock):
    rate = MinDataRate(seconds=10, bytes=0)
    seconds = await seconds_until_given_up(rate, count=0, every=1, within=300)
    assert seconds is not None
    assert seconds <= 20, "the client's buffer may take a byte in the first period"


async def test_a_socket_that_was_closed_meanwhile_is_reported_as_closed(clock: MockClock):
    ours, theirs = await tcp_pair()
    async with theirs, trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                await send_bytes(ours, LARGE)

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()
