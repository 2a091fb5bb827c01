"""The bridge that makes a Trio ASGI application work on an asyncio server.

Plain `hypercorn trionode:app` starts an asyncio worker, where a Quart-Trio application answers 500 to everything. The
bridge starts Trio as a guest of the running loop, once, and runs every ASGI call as a Trio task there; the server's
`receive` and `send` are asyncio's and are awaited as such. Under Trio it steps aside.
"""

from __future__ import annotations

import asyncio
import functools
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import outcome
import sniffio
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    Application = Callable[[Any, Any, Any], Awaitable[None]]


class AnyLoop:
    """An ASGI application made by `make` at the first call, running on Trio whatever the server's loop is.

    `before` is called with the name of the loop's library just before: the place to prepare a process in.
    """

    def __init__(self, make: Callable[[], Application], before: Callable[[str], None]) -> None:
        self._make = make
        self._before = before
        self._app: Application | None = None
        self._guest: _Guest | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        library = sniffio.current_async_library()
        if self._app is None:
            self._before(library)
            self._app = self._make()
        if library != "asyncio":
            await self._app(scope, receive, send)
            return
        if self._guest is None or self._guest.over:
            self._guest = await _Guest.start()
        if scope["type"] == "lifespan":
            await self._guest.call_lifespan(self._app, scope, receive, send)
        else:
            await self._guest.call(self._app, scope, receive, send)


class _Guest:
    """One guest run of Trio on the running asyncio loop, with a nursery that stays open for ASGI calls."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._open: asyncio.Future[None] = self._loop.create_future()
        self._nursery: trio.Nursery

    @classmethod
    async def start(cls) -> _Guest:
        guest = cls()
        trio.lowlevel.start_guest_run(
            guest._main,
            run_sync_soon_threadsafe=guest._loop.call_soon_threadsafe,
            done_callback=guest._done,
            # asyncio has its own use for the wakeup descriptor.
            host_uses_signal_set_wakeup_fd=True,
        )
        await guest._open
        return guest

    @property
    def over(self) -> bool:
        return self._ended.done()

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._token = trio.lowlevel.current_trio_token()
            self._open.set_result(None)
            await trio.sleep_forever()

    def _done(self, result: outcome.Outcome[None]) -> None:
        for future in (self._open, self._ended):
            if not future.done():
                _settle(future, result)

    async def stop(self) -> None:
        """End the guest run and wait for it."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        await self._ended

    async def call(self, app: Application, scope: Any, receive: Any, send: Any) -> None:
        """Run one ASGI call as a Trio task; when the server cancels this one, cancel that one and wait for it."""
        result: asyncio.Future[None] = self._loop.create_future()
        cancel_scope = trio.CancelScope()

        async def run() -> None:
            try:
                with cancel_scope:
                    caught = await outcome.acapture(
                        app, scope, functools.partial(_from_trio, receive), functools.partial(_from_trio, send)
                    )
                    if isinstance(caught, outcome.Error) and not isinstance(caught.error, Exception):
                        # Cancelled, or a fault of the interpreter: Trio must see it, the server hears of the end.
                        caught.unwrap()
                    _settle(result, caught)
            finally:
                # Also when the whole guest is cancelled: the server's side must never wait for ever.
                if not result.done():
                    result.set_result(None)

        self._token.run_sync_soon(self._nursery.start_soon, run)
        try:
            await asyncio.shield(result)
        except asyncio.CancelledError:
            # A guest that is over has settled the call already.
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(cancel_scope.cancel)
            await asyncio.wait([result])
            raise

    async def call_lifespan(self, app: Application, scope: Any, receive: Any, send: Any) -> None:
        """Run the lifespan, and end the guest with it.

        The last message is sent when everything has ended: Hypercorn cancels this task as soon as it hears it.
        """
        last: list[Any] = []

        async def hold_last(message: Any) -> None:
            if message["type"] == "lifespan.shutdown.complete":
                last.append(message)
            else:
                await send(message)

        try:
            await self.call(app, scope, receive, hold_last)
        finally:
            await self.stop()
        for message in last:
            await send(message)


def _settle(future: asyncio.Future[None], result: outcome.Outcome[None]) -> None:
    if isinstance(result, outcome.Error):
        future.set_exception(result.error)
    else:
        future.set_result(None)


async def _from_trio(function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """Await an asyncio coroutine from a Trio task of a guest run.

    It is first stepped once by hand: most sends finish without waiting, and a task for each would cost more than the
    send. Only one that waits becomes an asyncio task, which goes on where the step ended.
    """
    coroutine = function(*args)
    try:
        waits_for = coroutine.send(None)
    except StopIteration as done:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return done.value
    loop = asyncio.get_running_loop()
    task = loop.create_task(_finish(coroutine, waits_for))
    trio_task = trio.lowlevel.current_task()
    aborted: list[Callable[[], Any]] = []

    def wake(task: asyncio.Task[Any]) -> None:
        result = aborted[0] if aborted and task.cancelled() else functools.partial(_result_of, task)
        trio.lowlevel.reschedule(trio_task, outcome.capture(result))

    def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        aborted.append(raise_cancel)
        task.cancel()
        return trio.lowlevel.Abort.FAILED

    task.add_done_callback(wake)
    return await trio.lowlevel.wait_task_rescheduled(abort)


class _HostCancelled(Exception):
    """The asyncio task behind a Trio task's wait was cancelled, and not by that Trio task."""


def _result_of(task: asyncio.Task[Any]) -> Any:
    if task.cancelled():
        # asyncio's CancelledError means nothing to Trio.
        raise _HostCancelled
    return task.result()


async def _finish(coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    """Wrap `_go_on`: since Python 3.12 a task takes no coroutine that is made of a generator."""
    return await _go_on(coroutine, waits_for)


@types.coroutine
def _go_on(coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that was stepped once and has yielded `waits_for`."""
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:  # noqa: BLE001 - handed on to where it belongs
            step = functools.partial(coroutine.throw, error)
        else:
            step = functools.partial(coroutine.send, sent)
        try:
            waits_for = step()
        except StopIteration as done:
            return done.value
