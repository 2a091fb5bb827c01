"""A master that was away and comes back, in virtual time: who notices it, and when."""

from __future__ import annotations

from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from master_shim.protocol import NO_TOKEN, Heartbeat, HeartbeatAnswer, Registration
from store import MemoryStore
from trionode.delivery.admission import Downloads
from trionode.errors import OriginUnreachable
from trionode.metrics import Sample
from trionode.signals import Request
from trionode.sync.heartbeat import Pulse, beat_forever
from trionode.sync.meetings import Meetings
from trionode.sync.plan import Look
from trionode.sync.watch import watch_master

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from store import Digest, Manifest


class Master:
    """A legacy master that is away, refusing or silent, until it is back. Says when it was asked what."""

    protocol = 0

    def __init__(self, silence: float) -> None:
        self.silence = silence
        self.back = False
        self.asked: list[tuple[str, float]] = []

    async def _answer(self, what: str) -> None:
        if not self.back:
            await trio.sleep(self.silence)
        if not self.back:
            raise OriginUnreachable("it is away")
        self.asked.append((what, trio.current_time()))

    async def register(self, registration: Registration) -> None:
        await self._answer("register")

    async def heartbeat(self, beat: Heartbeat) -> HeartbeatAnswer:
        await self._answer("heartbeat")
        return HeartbeatAnswer()

    async def look(self) -> Look:
        await self._answer("look")
        return Look(NO_TOKEN, {"m": "m"})

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        await self._answer("manifest")
        raise OriginUnreachable("it breaks off")


async def no_room(needed: int, *, full_disk: bool = False) -> None:
    raise AssertionError("there is room")


@asynccontextmanager
async def node_of(master: Master, seed: int) -> AsyncIterator[Meetings]:
    chance = Random(seed)
    meetings = Meetings(MemoryStore(), master, chance, no_room)  # type: ignore[arg-type]
    pulse = Pulse("n", "127.0.0.1:1", meetings, Downloads(), Sample)
    async with trio.open_nursery() as nursery:
        meetings.nursery = nursery
        nursery.start_soon(watch_master, meetings, Request(), 300.0, chance)
        nursery.start_soon(beat_forever, pulse, master, lambda: None, meetings, chance)
        yield meetings
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("silence", [0.0, 5.0])
@pytest.mark.parametrize("away", [7.0, 300.0])
async def test_a_node_is_back_within_one_step_of_the_start_gate(
    autojump_clock: trio.testing.MockClock, seed: int, silence: float, away: float
):
    master = Master(silence)
    async with node_of(master, seed):
        await trio.sleep(away)
        master.back, back = True, trio.current_time()
        await trio.sleep(10)
        first = {what: at - back for what, at in reversed(master.asked)}
    # What is silent holds a call for as long as the node allows one; nothing else is waited for.
    assert first["look"] <= 3.3 + silence
    assert first["heartbeat"] <= first["look"] + 0.3 + silence


async def test_meetings_that_failed_for_want_of_the_master_are_tried_as_soon_as_it_is_back(
    autojump_clock: trio.testing.MockClock,
):
    master = Master(0.0)
    async with node_of(master, 1) as meetings:
        master.back = True
        await trio.sleep(100)
        meeting = meetings.get("m")
        assert meeting is not None
        assert meeting.failures > 5, "its pauses are long by now"
        master.back = False
        await trio.sleep(100)
        master.asked.clear()
        master.back, back = True, trio.current_time()
        await trio.sleep(10)
        assert next(at for what, at in master.asked if what == "manifest") - back <= 3.3
