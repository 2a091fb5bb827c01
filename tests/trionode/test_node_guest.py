"""The bridge to asyncio servers: what happens at its edges. That a whole node works on it, the process tests show."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trionode.server.guest import AnyLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Application = Callable[[Any, Any, Any], Awaitable[None]]


class Host:
    """An asyncio server's side of one ASGI call."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []
        self.slow_sends = False

    async def receive(self) -> Any:
        return await self.inbox.get()

    async def send(self, message: Any) -> None:
        if self.slow_sends:
            await asyncio.sleep(0)
        self.sent.append(message)


def run(app: Application, drive: Callable[[AnyLoop], Awaitable[None]]) -> list[str]:
    """Run `drive` on an asyncio loop against `app` behind the bridge; return what the process was prepared for."""
    prepared: list[str] = []
    bridge = AnyLoop(lambda: app, prepared.append)
    unhandled: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
        host = Host()
        await host.inbox.put({"type": "lifespan.startup"})
        lifespan = asyncio.create_task(bridge({"type": "lifespan"}, host.receive, host.send))
        while not host.sent:
            await asyncio.sleep(0.01)
        await drive(bridge)
        await host.inbox.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(lifespan, 10)
        assert host.sent[-1] == {"type": "lifespan.shutdown.complete"}
        gc.collect()

    asyncio.run(main())
    assert not unhandled
    return prepared


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
    # Work after the last message still happens: the bridge holds it back until the application has returned.
    await trio.sleep(0.01)


def application(handle: Application) -> Application:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (lifespan(receive, send) if scope["type"] == "lifespan" else handle(scope, receive, send))

    return app


@pytest.mark.parametrize("slow", [False, True])
def test_messages_pass_both_ways(slow: bool):
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:  # it really is Trio
            for _ in range(3):
                message = await receive()
                nursery.start_soon(send, message)

    async def drive(bridge: AnyLoop) -> None:
        host = Host()
        host.slow_sends = slow
        call = asyncio.create_task(bridge({"type": "http"}, host.receive, host.send))
        for number in range(3):
            await asyncio.sleep(0.01)
            await host.inbox.put(number)
        await asyncio.wait_for(call, 10)
        assert sorted(host.sent) == [0, 1, 2]

    assert run(application(echo), drive) == ["asyncio"]


def test_a_fault_of_the_application_reaches_the_server():
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(0)
        raise LookupError("mine")

    async def drive(bridge: AnyLoop) -> None:
        host = Host()
        with pytest.raises(LookupError, match="mine"):
            await bridge({"type": "http"}, host.receive, host.send)

    run(application(broken), drive)


def test_a_fault_of_the_server_reaches_the_application():
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
                await trio.sleep(0.05)
            ended.append("cleaned up")

    async def drive(bridge: AnyLoop) -> None:
        host = Host()
        call = asyncio.create_task(bridge({"type": "http"}, host.receive, host.send))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ended == ["cleaned up"]

    run(application(wait), drive)


def test_many_calls_at_once_do_not_meet():
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


async def test_under_trio_the_bridge_steps_aside():
    called: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append((scope, receive, send))

    prepared: list[str] = []
    await AnyLoop(lambda: app, prepared.append)("scope", "receive", "send")
    assert (called, prepared) == ([("scope", "receive", "send")], ["trio"])
