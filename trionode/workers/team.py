"""The processes of one node: which of them leads, and what all of them do together.

Who holds the storage's lock leads. The lock ends with its process, and another takes it and goes on; a leader that has
ended on purpose leaves the lock's file empty, and then the others wait a little, for they are probably to end as well.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import structlog
import trio

from ..metrics import Sample
from .following import Membership
from .leading import Office

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from store import StorageLock

    from .leading import Orders
    from .meetings import SharedMeetings
    from .wire import Draining, Facts, Reloading

RETRY_SECONDS = 0.05
"""Between two tries to reach the leader, or to lead. A `connect` and a `flock`."""

VACANT_SECONDS = 4.0
"""How long a lock that was given up on purpose is left alone. Hypercorn gives each of its processes 3 s to end, and one
that led in that time would put the node back on the master's list."""

SHARE_SECONDS = 0.1
"""How soon a place that is given back in one process is taken by who waits for it in another."""

_log = structlog.get_logger("trionode.workers")


class Team:
    """This process's place among those of its node.

    `counts` is of this process alone, `facts` what it says of the node when it leads, `hear` is told what the leader
    says of it; `saw_ticket` and `take_tickets` its tickets; `lead` is called when
    it begins to lead; `order` carries out what the leader orders, `orders` what a command orders the leader.
    """

    def __init__(
        self,
        storage: Path,
        meetings: SharedMeetings,
        *,
        counts: Callable[[], Sample],
        facts: Callable[[Sample, int], Facts],
        hear: Callable[[Facts], None],
        saw_ticket: Callable[[str], None],
        take_tickets: Callable[[], list[str]],
        lead: Callable[[], None],
        share: Callable[[int], None],
        order: Callable[[Draining | Reloading], None],
        orders: Orders,
    ) -> None:
        self.meetings = meetings
        self._counts = counts
        self._own_facts = facts
        self._hear = hear
        self._lead = lead
        self._share = share
        self._office = Office(storage, meetings, counts, facts, saw_ticket, orders)
        self._membership = Membership(storage, meetings, counts, take_tickets, self._take_facts, order)
        meetings.link = self._membership
        self._heard: Facts | None = None
        self._vacant_since = inf

    @property
    def office(self) -> Office:
        """The leader's connections; of use to the leader alone."""
        return self._office

    def facts(self) -> Facts:
        """Return what is so of the whole node: as the leader last said, if this process does not lead."""
        if self._heard is not None and not self.meetings.leading:
            return self._heard
        return self._own_facts(self._counts() + self.elsewhere(), self._office.workers)

    def elsewhere(self) -> Sample:
        """Return what the other processes do, as far as the leader knows; nothing in any other process."""
        return self._office.elsewhere() if self.meetings.leading else Sample()

    def _take_facts(self, facts: Facts) -> None:
        self._heard = facts
        self._hear(facts)

    async def keep_shares(self) -> None:
        """Share out what all processes may do together, until cancelled."""
        while True:
            heard = None if self.meetings.leading else self._heard
            self._share(self._office.workers if heard is None else heard.workers)
            await trio.sleep(SHARE_SECONDS)

    async def run(self, lock: StorageLock, address: str, node_id: str, may_lead: Callable[[], bool]) -> None:
        """Follow whoever leads, until this process does; then serve those who follow. Without end.

        Raises `StorageTaken` when a node of another address has taken the folder meanwhile.
        """
        while not lock.leader:
            if await self._membership.follow():
                _log.info("the process that led has ended")
            if may_lead() and not await self._is_vacant(lock):
                await trio.to_thread.run_sync(lock.acquire, address, node_id)
            if not lock.leader:
                await trio.sleep(RETRY_SECONDS)
        if not self.meetings.leading:
            self.meetings.lead()
            self._membership.settle()
            self._lead()
        await self._office.run()

    async def _is_vacant(self, lock: StorageLock) -> bool:
        """Tell whether the lock was given up on purpose, not long ago."""
        if not await trio.to_thread.run_sync(lock.given_up):
            self._vacant_since = inf
            return False
        self._vacant_since = min(self._vacant_since, trio.current_time())
        return trio.current_time() - self._vacant_since < VACANT_SECONDS
