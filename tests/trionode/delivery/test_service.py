"""When the head of an answer comes while a package is being fetched, in virtual time."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from master_shim.protocol.target import Fields
from tests.support.memory_store import MemoryStore
from trionode.answers import RETRY_SECONDS, answer_to
from trionode.delivery.admission import Downloads
from trionode.delivery.http import HEAD_SECONDS, PackageRequest
from trionode.delivery.peers import PeerRequests
from trionode.delivery.repr_digest import ReprDigests
from trionode.delivery.resolve import Resolver
from trionode.delivery.service import Delivery
from trionode.delivery.tickets import Tickets
from trionode.errors import FillFailed
from trionode.fetch.live_fill import LiveFill
from trionode.meetings.meeting import Meeting
from trionode.meetings.states import MeetingState

if TYPE_CHECKING:
    from trio.testing import MockClock


class Fetching:
    """A node that is fetching the package of the meeting m from a legacy master."""

    def __init__(self) -> None:
        self.live = LiveFill("m")
        self.meeting = Meeting("m", "", MeetingState.FILLING, fill=self.live)
        store: Any = MemoryStore()
        self._stream = store.begin_stream("m")
        meetings: Any = SimpleNamespace(get=lambda _: self.meeting)
        unused: Any = None
        resolver = Resolver(store, meetings, unused, unused)
        downloads = Downloads(on_full=lambda: None)
        self._delivery = Delivery(resolver, downloads, ReprDigests(), Tickets(), PeerRequests("a", enabled=True))

    def receive(self, size: int) -> None:
        self._stream.append(bytes(size))
        self.live.begin(self._stream)

    async def status(self, http_version: str = "1.1") -> int:
        """Return the status of the answer to a request that arrives now."""
        at = trio.current_time()
        request = PackageRequest("m", "GET", "/", Fields([]), {}, http_version, "127.0.0.1", True, at)
        with ExitStack() as stack:
            return (await self._delivery.answer(stack, request, None)).status


@pytest.mark.parametrize("http_version", ["1.0", "1.1"])
async def test_a_request_is_refused_in_time_while_nothing_has_arrived(autojump_clock: MockClock, http_version: str):
    with pytest.raises(FillFailed) as refused:
        await Fetching().status(http_version)
    assert trio.current_time() == pytest.approx(HEAD_SECONDS)
    status, _, fields = answer_to(refused.value, "/")
    assert (status, fields["Retry-After"]) == (503, str(RETRY_SECONDS))


async def test_a_client_that_needs_the_size_is_refused_in_time(autojump_clock: MockClock):
    node = Fetching()
    with trio.fail_after(2 * HEAD_SECONDS):
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(FillFailed, match="needs its size"):
                    await node.status("1.0")
                assert trio.current_time() == pytest.approx(HEAD_SECONDS)

            nursery.start_soon(ask)
            await trio.sleep(15)
            node.receive(1 << 20)
            assert await node.status("1.1") == 200
            assert trio.current_time() == pytest.approx(15)


async def test_a_request_is_refused_at_once_when_the_fetch_has_failed(autojump_clock: MockClock):
    node = Fetching()
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(FillFailed, match="the master is gone"):
                await node.status()
            assert trio.current_time() == pytest.approx(3)

        nursery.start_soon(ask)
        await trio.sleep(3)
        node.meeting.fill, node.meeting.state, node.meeting.reason = None, MeetingState.FAILED, "the master is gone"
        node.live.finish(FillFailed("the master is gone"))
        node.meeting.changed.notify()
