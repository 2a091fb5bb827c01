"""`trionode drain` and `reload`: what a running node is told. By its socket in the storage folder, not by a signal.

A process id that was written down may be another's by now; the socket is the node's own, and ends with it. Who may
write the storage may give these orders.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import trio

from ..errors import STORAGE_SETTING, CommandFailed
from ..workers.channel import Channel, connect
from ..workers.wire import Drain, FromLeader, Reload, Said
from .storage import Config, StoragePath, settings_of

if TYPE_CHECKING:
    from pathlib import Path

EXIT_NOT_RUNNING = 3

ANSWER_SECONDS = 10.0
"""How long a node may take to read its settings."""


def drain(*, storage_path: StoragePath = None, config: Config = None) -> int:
    """Have the node that runs on this machine take no new tablets, finish its downloads, and end.

    Returns when it has ended. Under hypercorn, which only its own signals can end, returns when nothing is going on
    any more.
    """
    storage = settings_of(storage_path, config).storage_path
    status = trio.run(functools.partial(_order, storage, Drain()))
    if status is None:
        print("the node has ended")
    return status or 0


def reload(*, storage_path: StoragePath = None, config: Config = None) -> int:
    """Have the node that runs on this machine read its settings again, and say what changed and what needs a restart.

    A wrong file changes nothing, and ends with status 2.
    """
    storage = settings_of(storage_path, config).storage_path
    status = trio.run(functools.partial(_order, storage, Reload(), within=ANSWER_SECONDS))
    if status is None:
        raise CommandFailed("the node has ended before it answered", EXIT_NOT_RUNNING)
    return status


async def _order(storage: Path, order: Drain | Reload, within: float = float("inf")) -> int | None:
    """Give an order and print what is said of it; return the status that comes with the last, None without one."""
    try:
        stream = await connect(storage)
    except (FileNotFoundError, ConnectionRefusedError):
        raise CommandFailed(
            f"no node runs on the storage folder {storage}; which folder is meant is set by {STORAGE_SETTING}",
            EXIT_NOT_RUNNING,
        ) from None
    async with stream:
        channel: Channel[FromLeader] = Channel(stream, FromLeader)
        try:
            with trio.fail_after(within):
                await channel.send(order)
                async for message in channel.messages():
                    if isinstance(message, Said):
                        print(message.text, flush=True)
                        if message.status is not None:
                            return message.status
        except trio.BrokenResourceError:
            pass  # it has ended
        except trio.TooSlowError:
            raise CommandFailed(f"the node does not answer within {within:g} s", EXIT_NOT_RUNNING) from None
    return None
