"""Heartbeats as they are composed: tickets, load, and readiness."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from master_shim.asgi import MAX_BODY_BYTES
from master_shim.protocol import PROTOCOL
from store import Store
from tests.support.meetings import HoldingMaster, ScriptedMaster, put, running_meetings
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually
from trionode.delivery.admission import Downloads
from trionode.delivery.tickets import MAX_TICKETS, Tickets
from trionode.heartbeat.address import ReportedAddress
from trionode.heartbeat.builder import MAX_BEAT_TICKETS, HeartbeatBuilder
from trionode.lifecycle import Lifecycle, NodeEvent
from trionode.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from trionode.meetings.service import Meetings


class Reporting:
    """A builder and what it reports about."""

    def __init__(self, meetings: Meetings) -> None:
        self.downloads = Downloads(on_full=lambda: None)
        self.tickets = Tickets()
        self.lifecycle = Lifecycle()
        own = ReportedAddress("n", Settings(node_address="127.0.0.1:1"))
        self.builder = HeartbeatBuilder(own, meetings, self.downloads, self.tickets, self.lifecycle)


@asynccontextmanager
async def idle_node(tmp_path: Path) -> AsyncIterator[Reporting]:
    async with running_meetings(Store.open(tmp_path), ScriptedMaster()) as running:
        yield Reporting(running.meetings)


@pytest.mark.parametrize(("character", "kept"), [("x", MAX_BEAT_TICKETS), ("\x01", 0), ("会", 0), ('"', 0)])
async def test_any_number_of_tickets_gives_a_heartbeat_that_a_master_accepts(tmp_path: Path, character: str, kept: int):
    async with idle_node(tmp_path) as node:
        for number in range(MAX_TICKETS):
            node.tickets.add(f"{number:05}".ljust(64, character))
        beat = node.builder.build()
        assert len(beat.tickets) == kept
        assert len(msgspec.json.encode(beat)) < MAX_BODY_BYTES / 2


async def test_tickets_that_one_heartbeat_has_no_room_for_come_with_the_next(tmp_path: Path):
    async with idle_node(tmp_path) as node:
        tickets = [f"{number:016x}" for number in range(MAX_TICKETS)]
        for ticket in tickets:
            node.tickets.add(ticket)
        reported: list[str] = []
        while (beat := node.builder.build()).tickets:
            reported += beat.tickets
            node.tickets.remove(beat.tickets)
        assert reported == tickets


async def test_a_heartbeat_names_current_packages_and_fills(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    master = HoldingMaster()
    stored = put(store, tmp_path, 200_000)
    master.manifests["stored"] = stored
    fetched = master.offer("fetched", make_package(tmp_path / "f.zip", make_documents(1, 300_000), level=0).path)
    async with running_meetings(store, master) as running:
        builder = Reporting(running.meetings).builder
        await running.poller.poll()
        await running.until_current("stored")
        await eventually(running.meetings.fills)
        beat = builder.build()
        assert (beat.node_id, beat.address, beat.protocol) == ("n", "127.0.0.1:1", PROTOCOL)
        assert {meeting.id for meeting in beat.active_meetings} == {"stored", "fetched"}
        assert beat.synced_meetings == ("stored",)
        assert beat.packages == {"stored": stored.digest}
        assert beat.filling == (fetched.digest,)
        assert beat.sources == {fetched.digest: ""}
        (fill,) = running.meetings.fills()
        fill.source = "n2"
        assert builder.build().sources == {fetched.digest: "n2"}


async def test_queued_downloads_are_part_of_the_load(tmp_path: Path):
    async with idle_node(tmp_path) as node:
        node.downloads.configure(Settings(max_downloads=2))
        for _ in range(3):
            node.downloads.request_permit(None, lambda: None)
        load = node.builder.build().load
        assert load is not None
        assert (load.active_downloads, load.max_downloads) == (3, 2)


async def test_the_rate_is_that_since_the_last_heartbeat(tmp_path: Path, autojump_clock: MockClock):
    async with idle_node(tmp_path) as node:
        for count, seconds, rate in ((1_000_000, 2, 500_000), (0, 5, 0), (300, 3, 100)):
            node.downloads.count_sent(count)
            await trio.sleep(seconds)
            load = node.builder.build().load
            assert load is not None
            assert load.bytes_per_second == rate


@pytest.mark.parametrize(
    ("events", "draining"), [((), True), ((NodeEvent.SERVE,), False), ((NodeEvent.SERVE, NodeEvent.DRAIN), True)]
)
async def test_a_node_that_is_not_ready_reports_that_it_drains(
    tmp_path: Path, events: tuple[NodeEvent, ...], draining: bool
):
    async with idle_node(tmp_path) as node:
        for event in events:
            node.lifecycle.apply(event)
        load = node.builder.build().load
        assert load is not None
        assert load.draining is draining
