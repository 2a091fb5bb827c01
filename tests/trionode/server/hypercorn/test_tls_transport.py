"""The transport below TLS: it enforces the minimum data rate, and passes everything else on."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.worker import socket_pair
from trionode.server.hypercorn.min_data_rate import MinDataRate
from trionode.server.hypercorn.tls_transport import MinRateTransport

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_client_that_stops_reading_is_given_up(autojump_clock: MockClock):
    ours, theirs = socket_pair(4096)
    began = trio.current_time()
    async with MinRateTransport(ours, MinDataRate(seconds=7)) as transport, theirs:
        with pytest.raises(trio.TooSlowError):
            await transport.send_all(bytes(1 << 20))
    assert trio.current_time() - began == pytest.approx(7)


async def test_bytes_pass_both_ways_to_the_end_of_each():
    ours, theirs = socket_pair()
    async with MinRateTransport(ours, MinDataRate()) as transport, theirs:
        assert transport.socket is ours.socket
        await transport.wait_send_all_might_not_block()
        await transport.send_all(b"to the client")
        await transport.send_eof()
        assert await theirs.receive_some() == b"to the client"
        assert await theirs.receive_some() == b""
        await theirs.send_all(b"\x16to the server")
        assert await transport.receive_some(7) == b"\x16to the"
        assert await transport.receive_some() == b" server"
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()


async def test_the_end_of_reading_is_reported_so_that_tls_can_still_send():
    ours, theirs = socket_pair()
    async with MinRateTransport(ours, MinDataRate()) as transport, theirs:
        await theirs.send_eof()
        with pytest.raises(trio.BrokenResourceError) as raised:
            await transport.receive_some()
        assert isinstance(raised.value.__cause__, ssl.SSLEOFError)
        await transport.send_all(b"to the client")
        assert await theirs.receive_some() == b"to the client"
