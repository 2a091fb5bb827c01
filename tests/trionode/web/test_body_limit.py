"""Request bodies that are too large, against a running node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.processes import memory_of

if TYPE_CHECKING:
    from tests.support.nodes import OurNode, Start
    from tests.trionode.conftest import StartNode

PATH = "/api/v1/meetings/big/download-package"

STARTS = ("serve", "hypercorn-trio")
"""Not plain `hypercorn`: its asyncio worker sometimes keeps the connection of a client that floods it, until that
client gives up. It costs that client alone."""


@pytest.mark.parametrize("how", STARTS)
async def test_a_body_is_refused_and_not_kept_in_memory(start_node: StartNode, how: Start):
    node = start_node("http://127.0.0.1:1", how=how)
    await node.until_up()
    head = "HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
    answer = await talk(node, f"POST / {head}Content-Length: 65537\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"access-control-allow-origin: *" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"detail": "The request body is too large"}
    # Within the limit, and never sent completely: no route reads it.
    answer = await talk(node, f"GET /health {head}Content-Length: 65536\r\n\r\nab".encode())
    assert answer.startswith(b"HTTP/1.1 200")
    pid = node.process.pid
    before = memory_of(pid, "VmHWM")
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    for method in ("POST", "GET"):
        path = PATH if method == "GET" else "/"
        answer = await talk(node, f"{method} {path} {head}Transfer-Encoding: chunked\r\n\r\n".encode(), chunk, 500)
        # A route may have answered before its body was known to be too long.
        assert answer[:13] in {b"HTTP/1.1 413 ", b"HTTP/1.1 405 ", b"HTTP/1.1 503 ", b""}, answer
    assert memory_of(pid, "VmHWM") - before < 8 << 20
    assert (await node.get("/health")).status_code == 200


async def talk(node: OurNode, request: bytes, then: bytes = b"", times: int = 0) -> bytes:
    """Send a request and what follows it, and return everything that is received until the node closes."""
    received = b""
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    with trio.fail_after(20):
        async with stream, trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    await stream.send_all(request)
                    for _ in range(times):
                        await stream.send_all(then)
                except trio.BrokenResourceError:
                    pass

            nursery.start_soon(send)
            try:
                while part := await stream.receive_some(65536):
                    received += part
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()
    return received
