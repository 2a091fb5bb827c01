"""Answers of a master, or of another server in its place: none of them fails the node or fills its memory."""

from __future__ import annotations

import gzip
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from trionode.errors import OriginError
from trionode.master.client import Master

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# httpx's generators nest: those of a body that is not read to its end are left to the garbage collector.
LEFT_UNREAD = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@asynccontextmanager
async def answering(*parts: bytes, again: bytes = b"") -> AsyncIterator[Master]:
    """Run a server that answers every request with `parts`, then with `again` for ever. Yield a client for it."""

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


async def test_titles_and_reasons_are_one_line_each():
    async with answering(whole(b'{"id":"t","active_meetings":[{"id":"m","title":"a\\r\\n\\u001b[2Jb"}]}')) as master:
        assert (await master.poll()).meetings == {"m": "a [2Jb"}
    error = b'{"detail":"no\\n\\u001b[2Jspace"}'
    answer = b"HTTP/1.1 500 Oops\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(error), error)
    async with answering(answer) as master:
        with pytest.raises(OriginError, match=r"was answered 500: no \[2Jspace$"):
            await master.poll()


@LEFT_UNREAD
@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"detail":[{"msg":1}]}', b"<html>", b'{"detail":"' + b"x" * 200_000 + b'"}']
)
async def test_an_error_with_any_body_is_that_error(body: bytes):
    answer = b"HTTP/1.1 503 Oops\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
    async with answering(answer) as master:
        with pytest.raises(OriginError, match=r"was answered 503$") as caught:
            await master.poll()
    assert caught.value.status == 503


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
async def test_an_answer_that_is_not_the_expected_json_is_an_error_of_the_master(body: bytes):
    async with answering(whole(body)) as master:
        with pytest.raises(OriginError, match="unexpected JSON"):
            await master.poll()


@LEFT_UNREAD
async def test_an_endless_answer_is_refused():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with answering(head, again=b"10000\r\n" + b" " * 65536 + b"\r\n") as master:
        with pytest.raises(OriginError, match="larger"):
            await master.poll()


@LEFT_UNREAD
@pytest.mark.parametrize("layers", [1, 2])
async def test_a_small_answer_that_decompresses_to_a_large_one_is_refused(layers: int):
    body = bytes(100 << 20)
    for _ in range(layers):
        body = gzip.compress(body)
    coding = b"Content-Encoding: " + b", ".join([b"gzip"] * layers) + b"\r\n"
    async with answering(whole(body, coding)) as master:
        with pytest.raises(OriginError, match="larger" if layers == 1 else "content coding that was not accepted"):
            await master.poll()
        with pytest.raises(OriginError, match="larger" if layers == 1 else "content coding that was not accepted"):
            await master.manifest("m", None)
