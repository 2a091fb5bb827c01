"""What a master, or whatever answers in its place, may say: nothing of it brings a node down or fills its memory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from trionode.errors import OriginError
from trionode.sync.sources import Master

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def answering(*parts: bytes, again: bytes = b"") -> AsyncIterator[Master]:
    """Run a server that answers every request with the same bytes, then with `again` for ever, and one who asks it."""

    async def answer(stream: trio.SocketStream) -> None:
        try:
            await stream.receive_some(65536)
            for part in parts:
                await stream.send_all(part)
            while again:
                await stream.send_all(again)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        master = Master(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        try:
            yield master
        finally:
            await master.aclose()
            nursery.cancel_scope.cancel()


def whole(body: bytes, fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s" % (len(body), fields, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"a\xff","active_meetings":[]}',
        b'{"id":"a","other":' + b"[" * 100_000,
        b'{"id":"\\ud800"}',
        b'{"id":"a","timestamp":1e999}',
        '{"id":"会议"}'.encode("gbk"),
    ],
)
async def test_an_answer_that_is_no_json_is_an_error_of_the_master(body: bytes):
    async with answering(whole(body)) as master:
        with pytest.raises(OriginError, match="not the JSON"):
            await master.look()
