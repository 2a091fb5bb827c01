"""Runs a Trio ASGI application on an asyncio server.

Plain `hypercorn trionode:app` starts an asyncio worker, where a Quart-Trio application answers 500 to every request.
The bridge starts Trio as a guest of the running loop, once, and runs every ASGI call as a Trio task; the server's
`receive` and `send` are awaited as asyncio tasks. Under Trio the application is called directly.
"""

from __future__ import annotations

import asyncio
import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import outcome
import sniffio
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Application = Callable[[Any, Any, Any], Awaitable[None]]


class AnyLoop:
    """An ASGI application that runs on Trio under a server on asyncio or Trio.

    `make` builds it at the first call.
    """

    def __init__(self, make: Callable[[], Application]) -> None:
        self._make = make
        self._app: Application | None = None
        self._guest: _Guest | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        library = sniffio.current_async_library()
        if self._app is None:
            self._app = self._make()
        if library != "asyncio":
            await self._app(scope, receive, send)
            return
        if self._guest is None or self._guest.ended:
            self._guest = await _Guest.start()
        if scope["type"] == "lifespan":
            await self._guest.call_lifespan(self._app, scope, receive, send)
        else:
            await self._guest.call(self._app, scope, receive, send)


class _Guest:
    """One guest run of Trio on the running asyncio loop, with a nursery that stays open for ASGI calls."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[None] = self._loop.create_future()
        self._open: asyncio.Future[None] = self._loop.create_future()
        self._nursery: trio.Nursery

    @classmethod
    async def start(cls) -> _Guest:
        guest = cls()
        trio.lowlevel.start_guest_run(
            guest._main,
            run_sync_soon_threadsafe=guest._loop.call_soon_threadsafe,
            done_callback=guest._done,
            # asyncio uses the wakeup descriptor itself.
            host_uses_signal_set_wakeup_fd=True,
        )
        await guest._open
        return guest

    @property
    def ended(self) -> bool:
        return self._result.done()

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._token = trio.lowlevel.current_trio_token()
            self._open.set_result(None)
            await trio.sleep_forever()

    def _done(self, result: outcome.Outcome[None]) -> None:
        for future in (self._open, self._result):
            if not future.done():
                _settle(future, result)

    async def stop(self) -> None:
        """End the guest run and wait for it."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        await self._result

    async def call(self, app: Application, scope: Any, receive: Any, send: Any) -> None:
        """Run one ASGI call as a Trio task. If the server cancels this task, cancel the Trio task and wait for it."""
        result: asyncio.Future[None] = self._loop.create_future()
        cancel_scope = trio.CancelScope()

        async def run() -> None:
            try:
                with cancel_scope:
                    caught = await outcome.acapture(
                        app, scope, functools.partial(_from_trio, receive), functools.partial(_from_trio, send)
                    )
                    if isinstance(caught, outcome.Error) and not isinstance(caught.error, Exception):
                        # Cancelled, or an error of the interpreter: for Trio to handle.
                        caught.unwrap()
                    _settle(result, caught)
            finally:
                # Also if the whole guest run is cancelled; otherwise the server would wait for ever.
                if not result.done():
                    result.set_result(None)

        self._token.run_sync_soon(self._nursery.start_soon, run)
        try:
            await asyncio.shield(result)
        except asyncio.CancelledError:
            # A guest run that has ended has set the result already.
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(cancel_scope.cancel)
            await asyncio.wait([result])
            raise

    async def call_lifespan(self, app: Application, scope: Any, receive: Any, send: Any) -> None:
        """Run the lifespan, and end the guest run with it.

        The last message is sent when everything has ended, since Hypercorn cancels this task when it receives it.
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
    """Await an asyncio coroutine, as a task of the host loop, from a Trio task of a guest run."""
    task = asyncio.get_running_loop().create_task(function(*args))
    trio_task = trio.lowlevel.current_task()
    raise_cancelled: Callable[[], Any] | None = None

    def wake(task: asyncio.Task[Any]) -> None:
        result: Callable[[], Any] = functools.partial(_result_of, task)
        if raise_cancelled is not None and task.cancelled():
            result = raise_cancelled
        trio.lowlevel.reschedule(trio_task, outcome.capture(result))

    def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        nonlocal raise_cancelled
        raise_cancelled = raise_cancel
        task.cancel()
        return trio.lowlevel.Abort.FAILED

    task.add_done_callback(wake)
    return await trio.lowlevel.wait_task_rescheduled(abort)


class _HostCancelled(Exception):
    """The asyncio task that a Trio task waits for was cancelled, and not by that Trio task."""


def _result_of(task: asyncio.Task[Any]) -> Any:
    if task.cancelled():
        # asyncio's CancelledError has no meaning in Trio.
        raise _HostCancelled
    return task.result()
