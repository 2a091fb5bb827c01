"""A URL that is not the master's: a node says what it asked for and what came instead, in the log and in the status."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from master_shim.protocol import Registration
from tests.support.masters import ShimMaster
from trionode.errors import OriginError
from trionode.master.client import Master

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.nodes import OurNode, Start
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

PAGE = b"<!DOCTYPE html><html><title>Welcome to the hotel</title></html>"


def answer(status: bytes, fields: bytes, body: bytes = PAGE) -> bytes:
    return b"HTTP/1.1 %s\r\n%s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, fields, len(body), body)


CAPTIVE = answer(b"200 OK", b"Content-Type: text/html; charset=utf-8")


@asynccontextmanager
async def answering(whole: bytes) -> AsyncIterator[str]:
    """Run a server that gives this answer to every request; yield its URL."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(whole)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def says(node: OurNode, words: str) -> None:
    await node.until_logged(words, within=20)
    assert words in (await node.status())["sync_status"]


@pytest.mark.parametrize("start", ["serve", "hypercorn"])
async def test_a_path_that_does_not_belong_in_the_url_is_named(
    spawn: Spawner, folder: Path, start_node: StartNode, start: Start
):
    url = ShimMaster(spawn, folder).url + "/api"
    node = start_node(url, how=start)
    await says(node, f"GET {url}/api/v1/meetings/status/token was answered 404")
    await says(node, "main_server has the path '/api', to which /api/v1 is added: is it right?")


@pytest.mark.parametrize("start", ["serve", "hypercorn"])
async def test_a_web_page_is_named(start_node: StartNode, start: Start):
    async with answering(CAPTIVE) as url:
        node = start_node(url, how=start)
        await says(node, "was answered 200 with a web page instead of a master's answer: is main_server right?")
        await node.until_logged(f"POST {url}/api/v1/nodes/register was answered 200 with a web page")


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (CAPTIVE, "answered 200 with a web page"),
        (answer(b"400 Bad Request", b"Content-Type: text/html"), "answered 400 with a web page"),
        (
            answer(b"302 Found", b"Location: https://hotel.example/login\r\nContent-Type: text/html"),
            "was answered 302, a redirect to https://hotel.example/login: is main_server right?",
        ),
        (
            answer(b"502 Bad Gateway", b"Content-Type: text/html"),
            "a web page, as a proxy does while the master is away",
        ),
        (answer(b"404 Not Found", b"Content-Type: application/json", b'{"detail":"no"}'), "was answered 404: no"),
        (answer(b"200 OK", b"Content-Type: application/json", b'{"status":"ok"}'), "unexpected JSON"),
    ],
)
async def test_every_call_says_what_came_instead(whole: bytes, said: str):
    async with answering(whole) as url:
        master = Master(url)
        try:
            with pytest.raises(OriginError) as caught:
                await master.poll()
            assert said in str(caught.value)
            if b"json" not in whole:
                with pytest.raises(OriginError, match="nodes/register was answered"):
                    await master.register(Registration("n", "127.0.0.1:8001"))
        finally:
            await master.aclose()


async def test_a_password_in_the_url_is_not_in_the_message():
    async with answering(CAPTIVE) as url:
        master = Master(url.replace("//", "//user:secret@"))
        try:
            with pytest.raises(OriginError) as caught:
                await master.poll()
            assert "secret" not in str(caught.value)
            assert url in str(caught.value)
        finally:
            await master.aclose()
