"""Delay SIGTERM in a worker process of Hypercorn's own command, which it would kill at once.

If another worker has failed, the parent requests a shutdown and sends SIGTERM right after it; systemd sends SIGTERM to
all processes of a service. Without the signal's default action the worker can shut down in order.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SHUTDOWN_SECONDS = 8.0
"""Then the process is killed: an orphan, which receives no request to shut down, must end as well."""


async def delay_sigterm(drain: Callable[[], Awaitable[None]], *, is_worker: bool) -> None:
    """At SIGTERM call `drain`, then give a worker process `SHUTDOWN_SECONDS` to shut down, and end the process.

    Returns at once if SIGTERM has a handler, and outside the main thread, which cannot have one.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            break
        with trio.move_on_after(SHUTDOWN_SECONDS):
            await drain()
            if is_worker:
                await trio.sleep_forever()  # until the shutdown, if the parent requests one
    os.kill(os.getpid(), signal.SIGTERM)
