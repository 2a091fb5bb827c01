"""Fixtures for tests of the connections: a file to send, and a worker process with our connections."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypercorn.asyncio.run
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.trio.run
import pytest
from hypercorn.asyncio.tcp_server import TCPServer as AsyncioTCPServer
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer

from trionode.server.hypercorn import ConnectionLimits, install
from trionode.server.hypercorn.sendfile import WINDOW_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def content() -> bytes:
    return os.urandom(3 * WINDOW_BYTES + 12_345)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Iterator[int]:
    """The descriptor of a file with `content`."""
    path = tmp_path / "file"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def limits() -> Iterator[ConnectionLimits]:
    """The limits of our connections, which serve every worker of this test."""
    made = ConnectionLimits()
    assert install(made)
    yield made
    hypercorn.asyncio.run.TCPServer = AsyncioTCPServer  # type: ignore[attr-defined]
    hypercorn.trio.run.TCPServer = TCPServer  # type: ignore[attr-defined]
    hypercorn.protocol.H2Protocol = H2Protocol  # type: ignore[attr-defined]
    hypercorn.protocol.H11Protocol = H11Protocol  # type: ignore[attr-defined]
    hypercorn.protocol.h2.StreamBuffer = StreamBuffer  # type: ignore[misc]
