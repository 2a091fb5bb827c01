"""The rate limit of what is fetched, and connections that are replaced by new ones."""

from __future__ import annotations

import ssl
from dataclasses import replace
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from tests.support.waiting import eventually
from trionode.master.transport import FetchPace, Transport
from trionode.settings import Settings
from trionode.token_bucket import BURST_SECONDS


@pytest.mark.parametrize("fetches", [1, 4])
async def test_all_fetches_together_keep_to_the_limit(autojump_clock: MockClock, fetches: int) -> None:
    rate, part, count = 1 << 20, 64 << 10, 160
    pace = FetchPace()
    pace.configure(replace(Settings(), sync_bytes_per_second=rate))
    began = trio.current_time()

    async def fetch() -> None:
        for _ in range(count // fetches):
            await pace.spend(part)

    async with trio.open_nursery() as nursery:
        for _ in range(fetches):
            nursery.start_soon(fetch)
    assert trio.current_time() - began == pytest.approx(count * part / rate - BURST_SECONDS)


async def test_the_limit_may_be_changed_and_removed_while_bytes_arrive(autojump_clock: MockClock) -> None:
    pace, began = FetchPace(), trio.current_time()
    await pace.spend(1 << 40)
    assert trio.current_time() == began
    pace.configure(replace(Settings(), sync_bytes_per_second=1000))
    await pace.spend(2000)
    assert trio.current_time() - began == pytest.approx(2 - BURST_SECONDS)
    pace.configure(Settings())
    await pace.spend(1 << 40)
    assert trio.current_time() - began == pytest.approx(2 - BURST_SECONDS)


class Server:
    """An HTTP server. `open` are its connections; the body of `/slow` ends when `slow` is set."""

    def __init__(self) -> None:
        self.slow = trio.Event()
        self.made = 0
        self.open: set[int] = set()

    async def serve(self, stream: trio.SocketStream) -> None:
        self.made += 1
        number = self.made
        self.open.add(number)
        while request := await stream.receive_some(65536):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
            await stream.send_all(b"ab")
            if b"/slow" in request:
                await self.slow.wait()
            await stream.send_all(b"cd")
        self.open.remove(number)


async def test_new_connections_replace_the_idle_ones_and_an_answer_that_is_arriving_arrives() -> None:
    server, received = Server(), bytearray()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        transport = Transport(url, ssl.create_default_context(), FetchPace(), 5.0)

        async def read_slowly(*, task_status: trio.TaskStatus[None]) -> None:
            async with transport.whole_body("/slow", {}, lambda _: None) as body:
                async for data in body:
                    received.extend(data)
                    if received == b"ab":
                        task_status.started()

        await nursery.start(read_slowly)
        await transport.call("GET", "/")
        await transport.call("GET", "/")
        assert server.open == {1, 2}
        await transport.renew()
        await transport.call("GET", "/")
        assert (server.made, server.open) == (3, {1, 2, 3}), "an answer arrives over one of the old ones"
        server.slow.set()
        await eventually(lambda: server.open == {3})
        assert received == b"abcd"
        await transport.renew()
        await eventually(lambda: server.open == set())
        await transport.aclose()
        nursery.cancel_scope.cancel()
