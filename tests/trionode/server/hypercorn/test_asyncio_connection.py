"""Our connection of a worker on asyncio."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from hypercorn.config import Config
from hypercorn.events import Closed
from hypercorn.typing import ConnectionState

from trionode.server.hypercorn import ConnectionLimits
from trionode.server.hypercorn.asyncio_connection import AsyncioConnection, log_failed_accepts_once_a_minute

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Unused:
    """A protocol and an idle task that take everything."""

    async def handle(self, event: object) -> None:
        """Do nothing."""

    async def restart(self, *args: object) -> None:
        """Do nothing."""


def test_a_connection_that_the_client_has_just_reset_is_closed_without_an_error():
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            reader, writer = await asyncio.open_connection(sock=listener.accept()[0])
        connection = AsyncioConnection(
            ConnectionLimits(), None, asyncio.get_running_loop(), Config(), None, ConnectionState({}), reader, writer
        )
        connection.protocol = connection.idle_task = Unused()  # type: ignore[assignment]
        connection._task_group = None  # type: ignore[assignment]
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        client.close()
        await connection.protocol_send(Closed())  # before the loop has seen the reset
        writer.transport.abort()

    asyncio.run(main())


def test_an_error_without_a_message_reaches_the_handler_before_ours():
    handled: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: handled.append(context))
        log_failed_accepts_once_a_minute(loop)
        loop.call_exception_handler({"exception": ValueError()})

    asyncio.run(main())
    assert [list(context) for context in handled] == [["exception"]]
