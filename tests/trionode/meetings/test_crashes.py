"""A task of a meeting that crashes: its check and those that the crash interrupts are started again."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

import trio

from store import Store
from tests.support.meetings import HoldingMaster, UnchangedFolder, no_room
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually
from trionode.events import AutoResetEvent
from trionode.meetings.poller import Poller
from trionode.meetings.service import Meetings
from trionode.meetings.states import MeetingState
from trionode.supervision import supervise
from trionode.upkeep.repair import Repairer

if TYPE_CHECKING:
    from pathlib import Path


class FailingEvent(AutoResetEvent):
    """An event that cannot be set once, by the task of a meeting."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0

    def set(self) -> None:
        if not self.failures and "_check_until_done" in trio.lowlevel.current_task().name:
            self.failures += 1
            raise OSError("a full disk")
        super().set()


async def test_a_crash_of_one_check_restarts_it_and_those_of_other_meetings(tmp_path: Path):
    master, event = HoldingMaster(), FailingEvent()
    event.failures = 1
    with Store.open(tmp_path / "storage") as store:
        rng, repairer = Random(1), Repairer(store, master)
        meetings = Meetings(store, master, rng, no_room, UnchangedFolder(), repairer, event)
        poller = Poller(master, meetings, 300.0, rng)
        first = master.offer("a", make_package(tmp_path / "a.zip", make_documents(1, 9_000)).path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(supervise, "meetings", meetings.run))
            await poller.poll()
            await eventually(lambda: meetings.get("a").state is MeetingState.FILLING, what="a fill that waits")
            event.failures = 0
            second = master.offer("b", make_package(tmp_path / "b.zip", make_documents(1, 8_000)).path)
            await poller.poll()
            await eventually(lambda: event.failures == 1, what="the crash")
            for manifest in (first, second):
                master.let_go[manifest.digest].set()
            for name in ("a", "b"):
                await eventually(lambda name=name: meetings.get(name).state is MeetingState.CURRENT, what=name)
            nursery.cancel_scope.cancel()
