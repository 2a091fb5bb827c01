"""The task that sends heartbeats: its intervals, and how it leaves the master."""

from __future__ import annotations

from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest
import structlog.testing
import trio

from master_shim.protocol import HEARTBEAT_SECONDS, Heartbeat, HeartbeatAnswer
from tests.support.meetings import UnchangedFolder, no_room
from tests.support.memory_store import MemoryStore
from trionode.delivery.admission import Downloads
from trionode.delivery.tickets import Tickets
from trionode.errors import NodeError, OriginError, OriginUnreachable
from trionode.events import AutoResetEvent
from trionode.heartbeat.address import ReportedAddress
from trionode.heartbeat.builder import HeartbeatBuilder
from trionode.heartbeat.sender import (
    LAST_BEAT_SECONDS,
    LEAVE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    MAX_INTERVAL_SECONDS,
    MIN_INTERVAL_SECONDS,
    HeartbeatSender,
    interval_seconds,
    pause_seconds,
)
from trionode.lifecycle import Lifecycle, NodeEvent
from trionode.master.responses import MeetingList
from trionode.meetings.poller import Poller
from trionode.meetings.service import Meetings
from trionode.settings import Settings
from trionode.upkeep.repair import Repairer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from master_shim.protocol import Registration


@pytest.mark.parametrize(
    ("requested", "seconds"),
    [
        (None, HEARTBEAT_SECONDS),
        (3.0, 3.0),
        (0.0, 1.0),
        (-5.0, 1.0),
        (1e9, MAX_INTERVAL_SECONDS),
        (float("nan"), MAX_INTERVAL_SECONDS),
    ],
)
def test_the_interval_that_a_master_asks_for_is_bounded(requested: float | None, seconds: float):
    assert interval_seconds(HeartbeatAnswer(next_seconds=requested)) == seconds


@pytest.mark.parametrize(
    ("duration", "seconds"), [(0.01, MIN_INTERVAL_SECONDS), (0.3, 1.2), (5.0, LONGEST_PAUSE_SECONDS)]
)
def test_the_pause_after_a_heartbeat_grows_with_its_duration(duration: float, seconds: float):
    assert pause_seconds(duration) == pytest.approx(seconds)


class RecordingMaster:
    """A master that records its calls and their times. It raises `failure`, and is silent while `silent`."""

    protocol = 1

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []
        self.beats: list[Heartbeat] = []
        self.answer = HeartbeatAnswer(token="t", next_seconds=5.0)
        self.failure: NodeError | None = None
        self.silent = False

    async def _call(self, name: str) -> None:
        self.calls.append((name, trio.current_time()))
        if self.silent:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure

    async def register(self, registration: Registration) -> None:
        await self._call("register")

    async def heartbeat(self, beat: Heartbeat) -> HeartbeatAnswer:
        self.beats.append(beat)
        await self._call("heartbeat")
        return self.answer

    async def unregister(self, node_id: str) -> None:
        await self._call("unregister")

    async def poll(self) -> MeetingList:
        await self._call("poll")
        return MeetingList("t", {})

    def times_of(self, name: str) -> list[float]:
        return [at for called, at in self.calls if called == name]


class Sending:
    """A sender and what it works with. `run` sends for a number of seconds."""

    def __init__(self, master: RecordingMaster) -> None:
        self.due = AutoResetEvent()
        self.tickets = Tickets()
        self.lifecycle = Lifecycle()
        self.lifecycle.apply(NodeEvent.SERVE)
        rng, store = Random(1), MemoryStore()
        own = ReportedAddress("n", Settings(node_address="127.0.0.1:1"))
        repairer = Repairer(store, master)  # type: ignore[arg-type]
        meetings = Meetings(store, master, rng, no_room, UnchangedFolder(), repairer, self.due)  # type: ignore[arg-type]
        self.poller = Poller(master, meetings, 300.0, rng)  # type: ignore[arg-type]
        downloads = Downloads(on_full=self.due.set)
        builder = HeartbeatBuilder(own, meetings, downloads, self.tickets, self.lifecycle)
        self.sender = HeartbeatSender(
            own,
            builder,
            master,
            meetings,
            self.poller,
            self.tickets,
            self.due,
            rng,  # type: ignore[arg-type]
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sender.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def master() -> RecordingMaster:
    return RecordingMaster()


async def test_a_node_registers_once_and_sends_heartbeats_at_the_interval_of_the_master(
    master: RecordingMaster, autojump_clock: MockClock
):
    sending, began = Sending(master), trio.current_time()
    async with sending.running():
        await trio.sleep(12)
        assert sending.sender.connected
    assert master.times_of("register") == [began]
    assert [at - began for at in master.times_of("heartbeat")] == pytest.approx([0, 5, 10])


async def test_what_is_due_is_sent_at_once_but_not_more_often_than_the_shortest_interval(
    master: RecordingMaster, autojump_clock: MockClock
):
    sending, began = Sending(master), trio.current_time()
    async with sending.running():
        await trio.sleep(1)
        for _ in range(20):  # twenty meetings become current within a tenth of a second
            sending.due.set()
            await trio.sleep(0.005)
        await trio.sleep(1)
    first, *soon = [at - began for at in master.times_of("heartbeat")]
    assert (first, soon) == (0, pytest.approx([1, 1 + MIN_INTERVAL_SECONDS]))


async def test_a_failed_heartbeat_is_repeated_at_once_when_the_master_answers_a_poll(
    master: RecordingMaster, autojump_clock: MockClock
):
    sending = Sending(master)
    async with sending.running():
        await trio.sleep(1)
        assert sending.sender.connected
        began, master.failure = trio.current_time(), OriginUnreachable("it is away")
        await trio.sleep(100)
        assert not sending.sender.connected
        attempts = len(master.times_of("register"))
        assert attempts > 2, "a master that was away may have forgotten this node"
        master.failure = None
        await sending.poller.poll()
        await trio.sleep(MIN_INTERVAL_SECONDS)
        assert sending.sender.connected
    assert len(master.times_of("register")) == attempts + 1
    assert master.times_of("heartbeat")[-1] - began <= 100 + MIN_INTERVAL_SECONDS


async def test_reported_tickets_are_removed_when_the_heartbeat_was_answered(
    master: RecordingMaster, autojump_clock: MockClock
):
    sending = Sending(master)
    sending.tickets.add("a")
    master.failure = OriginError("it is confused", 500)
    async with sending.running():
        await trio.sleep(1)
        assert sending.tickets.first(10) == ("a",)
        master.failure = None
        await trio.sleep(20)
        assert sending.tickets.first(10) == ()


async def test_another_token_in_an_answer_has_the_master_polled(master: RecordingMaster, autojump_clock: MockClock):
    sending = Sending(master)
    async with sending.running():
        await sending.poller.poll()
        with trio.move_on_after(10):
            await sending.poller.run()
        regular = len(master.times_of("poll"))
        master.answer = HeartbeatAnswer(token="u", next_seconds=1.0)
        sending.due.set()
        with trio.move_on_after(10):
            await sending.poller.run()
        assert len(master.times_of("poll")) > 2 * regular


async def test_a_node_leaves_once_with_a_last_heartbeat_and_sends_no_other(
    master: RecordingMaster, autojump_clock: MockClock
):
    sending = Sending(master)
    async with sending.running():
        await trio.sleep(1)
        sending.lifecycle.apply(NodeEvent.DRAIN)
        await sending.sender.leave()
        await sending.sender.leave()
        await trio.sleep(100)
    assert [name for name, _ in master.calls] == ["register", "heartbeat", "heartbeat", "unregister"]
    assert master.beats[-1].load is not None
    assert master.beats[-1].load.draining


async def test_a_node_that_is_stopped_while_it_leaves_waits_until_it_is_unregistered(
    master: RecordingMaster, autojump_clock: MockClock
):
    sending = Sending(master)
    master.silent = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sending.sender.leave)
        await trio.sleep(LAST_BEAT_SECONDS / 2)
        with trio.CancelScope() as scope:
            scope.cancel()
            await sending.sender.leave()
        assert [name for name, _ in master.calls] == ["heartbeat", "unregister"]


async def test_leaving_a_silent_master_takes_a_bounded_time_also_when_cancelled(
    master: RecordingMaster, autojump_clock: MockClock
):
    sending, began = Sending(master), trio.current_time()
    master.silent = True
    with trio.CancelScope() as scope:
        scope.cancel()
        await sending.sender.leave()
    assert trio.current_time() - began == pytest.approx(LEAVE_SECONDS)
    assert master.calls == [("heartbeat", began), ("unregister", began + LAST_BEAT_SECONDS)]


@pytest.mark.parametrize("failure", [OriginUnreachable("it is away"), OriginError("it is confused", 500)])
async def test_a_master_that_refuses_the_last_heartbeat_is_still_told_that_the_node_leaves(
    master: RecordingMaster, failure: NodeError
):
    sending = Sending(master)
    master.failure = failure
    await sending.sender.leave()
    assert [name for name, _ in master.calls] == ["heartbeat", "unregister"]


async def test_an_end_while_the_master_is_away_is_not_one_more_message_about_it(
    master: RecordingMaster, autojump_clock: MockClock
):
    for away in (False, True):
        sending = Sending(master)
        master.failure = OriginUnreachable("refused") if away else None
        async with sending.running():
            await trio.sleep(1)
            master.failure = OriginUnreachable("refused")
            with structlog.testing.capture_logs() as lines:
                await sending.sender.leave()
        shown = [line["event"] for line in lines if line["log_level"] != "debug"]
        assert shown == ([] if away else ["the node could not be unregistered"])


async def test_a_sender_that_crashed_can_be_started_again(master: RecordingMaster, autojump_clock: MockClock):
    sending = Sending(master)
    master.failure = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        await sending.sender.run()
    master.failure = None
    async with sending.running():
        await trio.sleep(1)
        assert sending.sender.connected
