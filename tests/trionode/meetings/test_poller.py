"""Polls of a master that was away and answers again, in virtual time, and what follows from them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs

from master_shim.protocol import NO_TOKEN, Heartbeat, HeartbeatAnswer
from tests.support.meetings import UnchangedFolder, no_room
from tests.support.memory_store import MemoryStore
from trionode.backoff import REMIND_SECONDS
from trionode.delivery.admission import Downloads
from trionode.delivery.tickets import Tickets
from trionode.errors import OriginError, OriginUnreachable
from trionode.events import AutoResetEvent
from trionode.heartbeat.address import ReportedAddress
from trionode.heartbeat.builder import HeartbeatBuilder
from trionode.heartbeat.sender import HeartbeatSender
from trionode.lifecycle import Lifecycle
from trionode.master.responses import MeetingList
from trionode.meetings.poller import POLL_SECONDS, SPACING_SECONDS, Poller
from trionode.meetings.service import Meetings
from trionode.settings import Settings
from trionode.upkeep.repair import Repairer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from master_shim.protocol import Registration
    from store import Digest, Manifest


class WrongMaster:
    """A server that is not a master."""

    async def poll(self) -> MeetingList:
        await trio.lowlevel.checkpoint()
        raise OriginError("it is a web page")


async def test_a_failure_that_lasts_is_logged_again_every_few_minutes(autojump_clock: trio.testing.MockClock):
    poller = Poller(WrongMaster(), None, 300.0, Random(1))  # type: ignore[arg-type]
    with capture_logs() as lines, trio.move_on_after(2 * REMIND_SECONDS + 60):
        await poller.run()
    assert [line["why"] for line in lines] == ["the master's answer cannot be used: it is a web page"] * 3


class Master:
    """A legacy master that refuses, or is silent, until it is `back`. `answered` are its answers with their times."""

    protocol = 0

    def __init__(self, silence: float) -> None:
        self.silence = silence
        self.back = False
        self.why = "it breaks off"
        self.answered: list[tuple[str, float]] = []

    async def _answer(self, what: str) -> None:
        if not self.back:
            await trio.sleep(self.silence)
        if not self.back:
            raise OriginUnreachable("it is away")
        self.answered.append((what, trio.current_time()))

    async def register(self, registration: Registration) -> None:
        await self._answer("register")

    async def heartbeat(self, beat: Heartbeat) -> HeartbeatAnswer:
        await self._answer("heartbeat")
        return HeartbeatAnswer()

    async def poll(self) -> MeetingList:
        await self._answer("poll")
        return MeetingList(NO_TOKEN, {"m": "m"})

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        await self._answer("manifest")
        raise OriginUnreachable(self.why)


@asynccontextmanager
async def node_of(master: Master, seed: int) -> AsyncIterator[Meetings]:
    """Run the polls, the checks and the heartbeats of a node with nothing stored."""
    rng, store, due, tickets = Random(seed), MemoryStore(), AutoResetEvent(), Tickets()
    repairer = Repairer(store, master)  # type: ignore[arg-type]
    meetings = Meetings(store, master, rng, no_room, UnchangedFolder(), repairer, due)  # type: ignore[arg-type]
    poller = Poller(master, meetings, 300.0, rng)  # type: ignore[arg-type]
    own = ReportedAddress("n", Settings(node_address="127.0.0.1:1"))
    builder = HeartbeatBuilder(own, meetings, Downloads(due.set), tickets, Lifecycle())
    sender = HeartbeatSender(own, builder, master, meetings, poller, tickets, due, rng)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        for service in (meetings, poller, sender):
            nursery.start_soon(service.run)
        yield meetings
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("silence", [0.0, 5.0])
@pytest.mark.parametrize("away", [7.0, 300.0])
async def test_a_master_that_answers_again_is_polled_and_gets_a_heartbeat_before_its_start_gate_counts_the_nodes(
    autojump_clock: trio.testing.MockClock, seed: int, silence: float, away: float
):
    master = Master(silence)
    async with node_of(master, seed):
        await trio.sleep(away)
        master.back, back = True, trio.current_time()
        await trio.sleep(10)
        first = {what: at - back for what, at in reversed(master.answered)}
    # A silent master holds a call for as long as the node allows; nothing else is waited for.
    assert first["poll"] <= 3.3 + silence
    assert first["heartbeat"] <= first["poll"] + 0.3 + silence


async def test_checks_that_failed_while_the_master_was_away_are_repeated_when_it_answers_again(
    autojump_clock: trio.testing.MockClock,
):
    master = Master(0.0)
    async with node_of(master, 1) as meetings:
        master.back = True
        await trio.sleep(100)
        meeting = meetings.get("m")
        assert meeting is not None
        assert meeting.failures > 5, "the delays are long by now"
        master.back = False
        await trio.sleep(100)
        master.answered.clear()
        master.back, back = True, trio.current_time()
        await trio.sleep(10)
        assert next(at for what, at in master.answered if what == "manifest") - back <= 3.3


async def test_a_check_that_keeps_failing_is_logged_every_few_minutes_and_at_once_for_another_reason(
    autojump_clock: trio.testing.MockClock,
):
    master = Master(0.0)
    master.back = True
    with capture_logs() as lines:
        async with node_of(master, 1) as meetings:
            await trio.sleep(2 * REMIND_SECONDS + 60)
            master.why = "it breaks off elsewhere"
            await trio.sleep(20)
            meeting = meetings.get("m")
            assert meeting is not None
            assert meeting.failures > 30
    reasons = [line["why"] for line in lines if line["event"] == "meeting not synced"]
    assert [reason.rpartition(": ")[2] for reason in reasons] == [
        *["it breaks off"] * 3,
        "it breaks off elsewhere",
    ]


class CountingMaster(Master):
    """A master that answers, and counts its polls."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.back = True

    @property
    def polls(self) -> int:
        return sum(what == "poll" for what, _ in self.answered)


class SlowMaster:
    """Answers as another master, `seconds` later."""

    def __init__(self, master: Master, seconds: float) -> None:
        self.begun = 0
        self._master = master
        self._seconds = seconds

    async def poll(self) -> MeetingList:
        self.begun += 1
        await trio.sleep(self._seconds)
        return await self._master.poll()


class Applied:
    """The meetings to which a poller hands its answers."""

    def __init__(self) -> None:
        self.full: list[bool] = []

    async def apply(self, listed: MeetingList, *, full: bool) -> None:
        await trio.lowlevel.checkpoint()
        self.full.append(full)

    def retry(self, failed_so: object) -> None:
        pass


@pytest.fixture
def applied() -> Applied:
    return Applied()


async def test_every_poll_after_the_sync_interval_is_a_full_one(
    applied: Applied, autojump_clock: trio.testing.MockClock
):
    poller = Poller(CountingMaster(), applied, 60.0, Random(1))  # type: ignore[arg-type]
    with trio.move_on_after(600):
        await poller.run()
    between = 60 / POLL_SECONDS
    assert 8 <= sum(applied.full) <= 10
    assert 8 * between <= len(applied.full) <= 12 * between
    assert not applied.full[0]


async def test_a_requested_poll_is_made_at_once(applied: Applied, autojump_clock: trio.testing.MockClock):
    master = CountingMaster()
    poller = Poller(master, applied, 300.0, Random(1))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        await trio.testing.wait_all_tasks_blocked()
        assert master.polls == 1
        began = trio.current_time()
        poller.request()
        await trio.testing.wait_all_tasks_blocked()
        assert (master.polls, trio.current_time()) == (2, began)
        nursery.cancel_scope.cancel()


async def test_requests_share_polls_that_begin_after_they_came_at_most_one_a_second(
    applied: Applied, autojump_clock: trio.testing.MockClock
):
    master = CountingMaster()
    poller = Poller(master, applied, 300.0, Random(1))  # type: ignore[arg-type]
    answered: list[tuple[float, float]] = []

    async def request() -> None:
        came = trio.current_time()
        while not await poller.poll_since(came):
            pass
        answered.append((came, trio.current_time()))

    await poller.poll()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            await trio.sleep(0.05)
            nursery.start_soon(request)
    polls = [at for what, at in master.answered if what == "poll"]
    assert len(answered) == 200
    assert all(any(came <= poll <= done for poll in polls) for came, done in answered)
    assert all(done - came <= SPACING_SECONDS for came, done in answered)
    assert len(polls) <= 2 + (trio.current_time() - began) / SPACING_SECONDS


async def test_a_poll_that_was_in_progress_when_a_request_came_does_not_answer_it(
    applied: Applied, autojump_clock: trio.testing.MockClock
):
    master = CountingMaster()
    poller = Poller(SlowMaster(master, 3.0), applied, 300.0, Random(1))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.poll)
        await trio.sleep(2)
        came = trio.current_time()
        while not await poller.poll_since(came):
            pass
    assert master.polls == 2


async def test_requests_that_are_cancelled_while_they_poll_cost_the_master_no_more(
    applied: Applied, autojump_clock: trio.testing.MockClock
):
    master = CountingMaster()
    slow = SlowMaster(master, 0.2)
    poller = Poller(slow, applied, 300.0, Random(1))  # type: ignore[arg-type]
    for _ in range(100):
        with trio.move_on_after(0.1):
            while not await poller.poll_since(trio.current_time()):
                pass
    assert slow.begun <= 11


async def test_the_failure_of_a_poll_is_shared_for_a_second(applied: Applied, autojump_clock: trio.testing.MockClock):
    master = CountingMaster()
    poller = Poller(master, applied, 300.0, Random(1))  # type: ignore[arg-type]
    await poller.poll()
    assert (poller.error, poller.answered_at > 0) == ("", True)
    await trio.sleep(2)
    master.back = False
    for _ in range(20):
        with pytest.raises(OriginUnreachable):
            await poller.poll_since(trio.current_time())
    assert "it is away" in poller.error
    master.back = True
    with pytest.raises(OriginUnreachable):
        await poller.poll_since(trio.current_time())
    assert master.polls == 1
    await trio.sleep(1)
    assert await poller.poll_since(trio.current_time())
    assert (master.polls, poller.error) == (2, "")
