"""Installing our connection in Hypercorn, and in no other version of it."""

from __future__ import annotations

import hypercorn.protocol.h2
import hypercorn.trio.run
import pytest
import structlog.testing
from hypercorn.protocol.h2 import StreamBuffer
from hypercorn.trio.tcp_server import TCPServer

import trionode.server.hypercorn
from tests.support.worker import LAST_REQUEST, exchange, serving
from trionode.delivery.send import ZERO_COPY
from trionode.server.hypercorn import ConnectionLimits, install


async def test_an_unknown_version_of_hypercorn_is_left_alone_with_one_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trionode.server.hypercorn, "version", lambda name: "0.19.0")
    limits, offered = ConnectionLimits(), list[bool]()
    with structlog.testing.capture_logs() as lines:
        assert not install(limits)
    assert hypercorn.trio.run.TCPServer is TCPServer  # type: ignore[attr-defined]
    assert hypercorn.protocol.h2.StreamBuffer is StreamBuffer
    assert [(line["log_level"], line["version"]) for line in lines] == [("warning", "0.19.0")]

    async def app(scope: dict[str, dict[str, object]], receive: object, send: object) -> None:
        offered.append(ZERO_COPY in scope["extensions"])

    async with serving(app) as port:  # type: ignore[arg-type]
        await exchange(port, LAST_REQUEST)
    assert offered == [False]


async def test_two_servers_of_one_process_have_their_own_limits(limits: ConnectionLimits):
    """Those of the last call serve the connections of listeners that begin after it."""
    second = ConnectionLimits()
    second.max_connections = 1
    assert second.try_open()
    assert install(second)

    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("no connection may be opened")

    async with serving(app) as port:  # type: ignore[arg-type]
        assert (await exchange(port, LAST_REQUEST)).startswith(b"HTTP/1.1 503")
    assert (limits.open_connections, second.open_connections) == (0, 1)
