"""Requests for packages cancelled at each of their awaits: no permit, lease, follower or descriptor is left."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from store import Store
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from trionode import create_app
from trionode.delivery.admission import Downloads, Permit
from trionode.delivery.peers import PeerRequests
from trionode.delivery.repr_digest import ReprDigests
from trionode.delivery.resolve import Resolver
from trionode.delivery.send import ZERO_COPY
from trionode.delivery.service import Delivery
from trionode.delivery.tickets import Tickets
from trionode.fetch.live_fill import LiveFill
from trionode.lifecycle import Lifecycle, NodeEvent
from trionode.master.client import Master
from trionode.meetings.meeting import Meeting
from trionode.meetings.states import MeetingState
from trionode.settings import Settings
from trionode.upkeep.repair import Repairer
from trionode.web.packages import PackageRoutes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trionode.web.app import NodeApp

    Application = Callable[[Any, Any, Any], Awaitable[None]]


def store_package(tmp_path: Path) -> tuple[Path, str, bytes]:
    """Return a storage folder with one version, its digest and its bytes."""
    content = make_package(tmp_path / "m1.zip", make_documents(2, 100_000), level=1).path.read_bytes()
    store = Store.open(tmp_path / "storage")
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
    """The server's side of one request: takes one message in each pass of the loop."""

    def __init__(
        self, app: Application, *, query: str = "", fields: dict[str, str] | None = None, zero_copy: bool
    ) -> None:
        self.body = bytearray()
        self.status = 0
        self.ended = False
        self._app = app
        self._received = False
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
        if self._received:
            await trio.sleep_forever()
        self._received = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == ZERO_COPY:
            data = os.pread(message["file"].fileno(), message["count"], message["offset"])
            self.body += data
            message["file"].count_sent(len(data))
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
    """Run a request and cancel it before its n-th step. Return whether it had as many steps."""
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


def assert_nothing_is_left(downloads: Downloads, before: list[str]) -> None:
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
    # A rate limit, so that its waits are cancelled as well.
    async with running(storage, total_bytes_per_second=4 << 20) as app:
        warm = Client(app, query=f"v={digest}", fields=fields, zero_copy=zero_copy)
        await warm.run()
        assert warm.ended
        before = descriptors()
        number, cancelled = 0, True
        while cancelled:
            number += 1
            client = Client(app, query=f"v={digest}", fields=fields, zero_copy=zero_copy)
            cancelled = await cancelled_at(number, client)
            assert_nothing_is_left(app.node.services.downloads, before)
        assert number >= 4  # the start, the body, its end, and what comes after
        assert (client.status, client.body) == (warm.status, warm.body)


async def test_a_queued_download(tmp_path: Path):
    storage, digest, content = store_package(tmp_path)
    async with running(storage, max_downloads=1) as app:
        await Client(app, query=f"v={digest}", zero_copy=True).run()
        before = descriptors()  # the store keeps one of a version that was used
        downloads = app.node.services.downloads
        number, cancelled = 0, True
        while cancelled:
            number += 1
            first = downloads.request_permit(None, lambda: None)
            client = Client(app, query=f"v={digest}", zero_copy=True)
            async with trio.open_nursery() as nursery:

                async def leave(first: Permit = first, passes: int = number % 7) -> None:
                    # In some rounds before the other has come, in some while it waits, or as it is cancelled.
                    for _ in range(5 * passes):
                        await trio.lowlevel.checkpoint()
                    downloads.release(first)

                nursery.start_soon(leave)
                cancelled = await cancelled_at(number, client)
            assert_nothing_is_left(app.node.services.downloads, before)
        assert client.body == content


class Following:
    """A node with one meeting, whose package is being fetched, and the routes for it."""

    def __init__(self, storage: Path, content: bytes) -> None:
        self.store = Store.open(storage)
        self.fill = LiveFill("m1")
        self.downloads = Downloads(on_full=lambda: None)
        self.lifecycle = Lifecycle()
        self.lifecycle.apply(NodeEvent.SERVE)
        self._meeting = Meeting("m1", "", state=MeetingState.FILLING, fill=self.fill)
        repairer = Repairer(self.store, Master("http://127.0.0.1:9"))
        resolver = Resolver(self.store, self, None, repairer)  # type: ignore[arg-type] - the meeting is known: no poll
        self.delivery = Delivery(resolver, self.downloads, ReprDigests(), Tickets(), PeerRequests("n", enabled=True))
        self.routes = PackageRoutes(self, no_other_route)  # type: ignore[arg-type]
        self._content = content
        self._stream = self.store.begin_stream("m1")
        self._stream.append(content[: len(content) // 2])
        self.fill.begin(self._stream)

    @property
    def services(self) -> Following:
        return self

    def get(self, meeting_id: str) -> Meeting:
        return self._meeting

    async def continue_for(self, client: Client, *, fails: bool) -> None:
        """Continue the fill when the client has received some of it."""
        while not client.body:
            await trio.lowlevel.checkpoint()
        if fails:
            self.fill.finish(OSError("the master is gone"))
        else:
            self._stream.append(self._content[len(self._content) // 2 :])
            self.fill.advance()
            await trio.lowlevel.checkpoint()
            self.fill.finish()

    def close(self) -> None:
        self.fill.finish()
        assert not self.fill._sending
        assert_nothing_is_left(self.downloads, [])
        self.store.close()


async def no_other_route(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("every request is for a package")


@pytest.mark.parametrize("zero_copy", [True, False])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_package_that_is_being_fetched(tmp_path: Path, zero_copy: bool, fails: bool):
    storage, _, content = store_package(tmp_path)
    number, cancelled = 0, True
    while cancelled:
        number += 1
        node = Following(storage, content)
        client = Client(node.routes, zero_copy=zero_copy)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(node.continue_for, client, fails=fails))
            cancelled = await cancelled_at(number, client)
            nursery.cancel_scope.cancel()
        node.close()
    assert number >= 4  # the start, the body, its end, and what comes after
    assert client.ended != fails
    assert fails or client.body == content
