"""The bridge to asyncio servers: messages, errors and cancellation pass through it in both directions."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from trionode.server.asyncio_bridge import AnyLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Application = Callable[[Any, Any, Any], Awaitable[None]]


class Host:
    """An asyncio server's side of one ASGI call."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []
        self.slow_sends = False
        self.receiving = asyncio.Event()
        self.has_sent = asyncio.Event()

    async def receive(self) -> Any:
        self.receiving.set()
        return await self.inbox.get()

    async def send(self, message: Any) -> None:
        if self.slow_sends:
            await asyncio.sleep(0)
        self.sent.append(message)
        self.has_sent.set()


def run(app: Application, drive: Callable[[AnyLoop], Awaitable[None]]) -> int:
    """Run `drive` on an asyncio loop against `app` behind the bridge. Return how often `app` was made."""
    made = 0

    def make() -> Application:
        nonlocal made
        made += 1
        return app

    bridge = AnyLoop(make)
    unhandled: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
        host = Host()
        await host.inbox.put({"type": "lifespan.startup"})
        lifespan = asyncio.create_task(bridge({"type": "lifespan"}, host.receive, host.send))
        await asyncio.wait_for(host.has_sent.wait(), 10)
        await drive(bridge)
        await host.inbox.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(lifespan, 10)
        assert host.sent[-1] == {"type": "lifespan.shutdown.complete"}
        gc.collect()

    asyncio.run(main())
    assert not unhandled
    return made


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
    # Work after the last message is done: the bridge holds the message back until the application has returned.
    await some_passes()


async def some_passes() -> None:
    for _ in range(20):
        await trio.lowlevel.checkpoint()


def application(handle: Application) -> Application:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (lifespan(receive, send) if scope["type"] == "lifespan" else handle(scope, receive, send))

    return app


@pytest.mark.parametrize("slow", [False, True])
def test_messages_pass_both_ways(slow: bool):
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:  # this raises on any other loop
            for _ in range(3):
                message = await receive()
                nursery.start_soon(send, message)

    async def drive(bridge: AnyLoop) -> None:
        host = Host()
        host.slow_sends = slow
        call = asyncio.create_task(bridge({"type": "http"}, host.receive, host.send))
        for number in range(3):
            await asyncio.wait_for(host.receiving.wait(), 10)
            host.receiving.clear()
            await host.inbox.put(number)
        await asyncio.wait_for(call, 10)
        assert sorted(host.sent) == [0, 1, 2]

    assert run(application(echo), drive) == 1


def test_an_error_of_the_application_reaches_the_server():
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(0)
        raise LookupError("mine")

    async def drive(bridge: AnyLoop) -> None:
        host = Host()
        with pytest.raises(LookupError, match="mine"):
            await bridge({"type": "http"}, host.receive, host.send)

    run(application(broken), drive)


def test_an_error_of_the_server_reaches_the_application():
    seen: list[str] = []

    async def send_once(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send("x")
        except ConnectionError as error:
            seen.append(str(error))

    async def drive(bridge: AnyLoop) -> None:
        async def refuse(message: Any) -> None:
            await asyncio.sleep(0)
            raise ConnectionError("gone")

        await bridge({"type": "http"}, Host().receive, refuse)

    run(application(send_once), drive)
    assert seen == ["gone"]


def test_a_call_the_server_cancels_is_cancelled_in_trio_and_waited_for():
    ended: list[str] = []

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        finally:
            with trio.CancelScope(shield=True):
                await some_passes()
            ended.append("cleaned up")

    async def drive(bridge: AnyLoop) -> None:
        host = Host()
        call = asyncio.create_task(bridge({"type": "http"}, host.receive, host.send))
        await asyncio.wait_for(host.receiving.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ended == ["cleaned up"]

    run(application(wait), drive)


def test_a_receive_that_the_application_cancels_loses_no_message():
    async def receive_twice(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await send(await receive())

    async def drive(bridge: AnyLoop) -> None:
        host = Host()
        call = asyncio.create_task(bridge({"type": "http"}, host.receive, host.send))
        for _ in range(2):
            await asyncio.wait_for(host.receiving.wait(), 10)
            host.receiving.clear()
        await host.inbox.put("message")
        await asyncio.wait_for(call, 10)
        assert host.sent == ["message"]

    run(application(receive_twice), drive)


def test_a_receive_that_the_server_cancels_by_itself_is_an_error_in_the_application():
    seen: list[str] = []

    async def receive_once(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        except Exception as error:
            seen.append(type(error).__name__)

    async def drive(bridge: AnyLoop) -> None:
        async def receive() -> Any:
            raise asyncio.CancelledError

        await asyncio.wait_for(bridge({"type": "http"}, receive, Host().send), 10)

    run(application(receive_once), drive)
    assert seen == ["_HostCancelled"]


def test_a_second_lifespan_on_the_same_loop_works_as_the_first():
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await trio.lowlevel.checkpoint()
        await send("answer")

    async def main() -> None:
        bridge = AnyLoop(lambda: application(answer))
        for _ in range(2):
            host = Host()
            await host.inbox.put({"type": "lifespan.startup"})
            ending = asyncio.create_task(bridge({"type": "lifespan"}, host.receive, host.send))
            await asyncio.wait_for(host.has_sent.wait(), 10)
            client = Host()
            await asyncio.wait_for(bridge({"type": "http"}, client.receive, client.send), 10)
            assert client.sent == ["answer"]
            await host.inbox.put({"type": "lifespan.shutdown"})
            await asyncio.wait_for(ending, 10)

    asyncio.run(main())


def test_concurrent_calls_are_independent():
    async def add(scope: Any, receive: Any, send: Any) -> None:
        total = 0
        for _ in range(5):
            total += await receive()
            await trio.sleep(0)
        await send(total)

    async def drive(bridge: AnyLoop) -> None:
        async def one(number: int) -> None:
            host = Host()
            for _ in range(5):
                await host.inbox.put(number)
            await bridge({"type": "http"}, host.receive, host.send)
            assert host.sent == [5 * number]

        await asyncio.gather(*(one(number) for number in range(100)))

    run(application(add), drive)


async def test_under_trio_the_application_is_called_directly():
    called: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append((scope, receive, send))

    made: list[Application] = []

    def make() -> Application:
        made.append(app)
        return app

    bridge = AnyLoop(make)
    for _ in range(2):
        await bridge("scope", "receive", "send")
    assert (called, made) == ([("scope", "receive", "send")] * 2, [app])
