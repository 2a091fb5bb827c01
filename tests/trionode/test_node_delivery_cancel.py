"""Delivery cancelled at each of its awaits: no place, lease, follower or descriptor is left."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from store import DiskStore
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from trionode.app import create_app
from trionode.config import Settings
from trionode.delivery.admission import Place
from trionode.delivery.sending import ZERO_COPY
from trionode.sync.active import ActiveFill
from trionode.sync.meetings import Meeting
from trionode.sync.plan import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trionode.app import NodeApp


def store_package(tmp_path: Path) -> tuple[Path, str, bytes]:
    """Return a storage folder with one version, its digest and its bytes."""
    content = make_package(tmp_path / "m1.zip", make_documents(2, 100_000), level=1).path.read_bytes()
    store = DiskStore.open(tmp_path / "storage")
    stream = store.begin_stream("m1")
    stream.append(content)
    manifest = stream.commit()
    stream.close()
    store.close()
    return tmp_path / "storage", manifest.digest, content


@asynccontextmanager
async def running(storage: Path, **settings: Any) -> AsyncIterator[NodeApp]:
    """A node in this process, whose master does not answer."""
    url = f"http://127.0.0.1:{free_port()}"
    # Without the scrub, which holds packages open as well.
    app = create_app(Settings(main_server=url, storage_path=storage, node_id="n", scrub_bytes_per_second=0, **settings))
    async with app.test_app():
        yield app


class Client:
    """The server's side of one request: takes what is sent, at a pace of one message for each pass of the loop."""

    def __init__(self, app: NodeApp, *, query: str = "", fields: dict[str, str] | None = None, zero_copy: bool) -> None:
        self.body = bytearray()
        self.status = 0
        self.ended = False
        self._app = app
        self._asked = False
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/api/v1/meetings/m1/download-package",
            "raw_path": b"/api/v1/meetings/m1/download-package",
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"x")] + [(k.lower().encode(), v.encode()) for k, v in (fields or {}).items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "extensions": {ZERO_COPY: {}} if zero_copy else {},
        }

    async def run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if self._asked:
            await trio.sleep_forever()
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == ZERO_COPY:
            data = os.pread(message["file"].fileno(), message["count"], message["offset"])
            self.body += data
            message["file"].moved(len(data))
        else:
            self.body += message["body"]
            self.ended = not message.get("more_body", False)


class CancelAt(trio.abc.Instrument):
    """Cancels `scope` before the n-th step of the tasks below `root`."""

    def __init__(self, number: int, root: trio.lowlevel.Task, scope: trio.CancelScope) -> None:
        self.steps_left = number
        self._root, self._scope = root, scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        above: trio.lowlevel.Task | None = task
        while above is not None and above is not self._root:
            above = above.parent_nursery.parent_task if above.parent_nursery else None
        if above is not None and task is not self._root:
            self.steps_left -= 1
            if self.steps_left == 0:
                self._scope.cancel()


async def cancelled_at(number: int, client: Client) -> bool:
    """Run a request and cancel it before its n-th step; tell whether it had as many."""
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with scope:
                await client.run()
            nursery.cancel_scope.cancel()

        instrument = CancelAt(number, trio.lowlevel.current_task(), scope)
        trio.lowlevel.add_instrument(instrument)
        nursery.start_soon(run)
        with trio.fail_after(20):
            await trio.sleep_forever()
    trio.lowlevel.remove_instrument(instrument)
    return instrument.steps_left <= 0


def descriptors() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if ".zip" in target or "incoming" in target:
            found.append(target)
    return sorted(found)


def assert_nothing_is_left(app: NodeApp, before: list[str]) -> None:
    downloads = app.node.downloads
    assert (downloads.active, downloads.queued, dict(downloads.sending)) == (0, 0, {})
    assert descriptors() == before


REQUESTS = {
    "whole": {},
    "range": {"Range": "bytes=1000-9999"},
    "parts": {"Range": "bytes=0-999,50000-99999,-1000"},
    "digest": {"Want-Repr-Digest": "sha-256=1"},
}


@pytest.mark.parametrize("zero_copy", [True, False])
@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
async def test_a_stored_package(tmp_path: Path, fields: dict[str, str], zero_copy: bool):
    storage, digest, _ = store_package(tmp_path)
    # Every await, those of the limits included: small spans, and each of them paced.
    async with running(storage, total_bytes_per_second=4 << 20) as app:
        warm = Client(app, query=f"v={digest}", fields=fields, zero_copy=zero_copy)
        await warm.run()
        assert warm.ended
        before = descriptors()
        number, goes_on = 0, True
        while goes_on:
            number += 1
            client = Client(app, query=f"v={digest}", fields=fields, zero_copy=zero_copy)
            goes_on = await cancelled_at(number, client)
            assert_nothing_is_left(app, before)
        assert number >= 4  # the start, the body, its end, and what comes after
        assert (client.status, client.body) == (warm.status, warm.body)


async def test_a_place_in_the_queue(tmp_path: Path):
    storage, digest, content = store_package(tmp_path)
    async with running(storage, max_downloads=1) as app:
        await Client(app, query=f"v={digest}", zero_copy=True).run()
        before = descriptors()  # of a version that was used the store keeps one
        downloads = app.node.downloads
        number, goes_on = 0, True
        while goes_on:
            number += 1
            first = downloads.arrive(None, lambda: None)
            client = Client(app, query=f"v={digest}", zero_copy=True)
            async with trio.open_nursery() as nursery:

                async def leave(first: Place = first, passes: int = number % 7) -> None:
                    # At times before the other has come, at times while it waits, or as it is cancelled.
                    for _ in range(5 * passes):
                        await trio.lowlevel.checkpoint()
                    downloads.release(first)

                nursery.start_soon(leave)
                goes_on = await cancelled_at(number, client)
            assert_nothing_is_left(app, before)
        assert client.body == content


@pytest.mark.parametrize("zero_copy", [True, False])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_package_that_is_being_fetched(tmp_path: Path, zero_copy: bool, fails: bool):
    storage, _, content = store_package(tmp_path)
    async with running(storage) as app:
        number, goes_on = 0, True
        while goes_on:
            number += 1
            meeting, goes_on, client = await follow(app, content, number, zero_copy=zero_copy, fails=fails)
            assert meeting.fill is not None
            assert meeting.fill._followers == 0
            assert not meeting.fill._sending
            meeting.fill.finish(None)
            assert_nothing_is_left(app, [])
        assert number >= 4  # the start, the body, its end, and what comes after
        assert client.ended != fails
        assert fails or client.body == content


async def follow(
    app: NodeApp, content: bytes, number: int, *, zero_copy: bool, fails: bool
) -> tuple[Meeting, bool, Client]:
    active = ActiveFill("m1")
    meeting = Meeting("m1", "", state=State.FILLING, fill=active)
    app.node.meetings._meetings["m1"] = meeting
    stream = app.node.store.begin_stream("m1")
    half = len(content) // 2
    stream.append(content[:half])
    active.begin_stream(stream)
    client = Client(app, zero_copy=zero_copy)
    async with trio.open_nursery() as nursery:

        async def go_on() -> None:
            while not client.body:
                await trio.lowlevel.checkpoint()
            if fails:
                active.finish(OSError("the master is gone"))
            else:
                stream.append(content[half:])
                active.advance()
                await trio.lowlevel.checkpoint()
                active.finish(None)

        nursery.start_soon(go_on)
        goes_on = await cancelled_at(number, client)
        nursery.cancel_scope.cancel()
    return meeting, goes_on, client
