"""Polls of the master: every few seconds, at once when requested, and in full every SYNC_INTERVAL."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

import structlog
import trio

from ..backoff import Reminder, retry_seconds
from ..errors import NodeError, OriginError, OriginUnreachable
from ..events import AutoResetEvent, Broadcast

if TYPE_CHECKING:
    from random import Random

    from ..master.client import Master
    from .service import Meetings

POLL_SECONDS = 3.0
"""Interval between polls: with one fill it fits into the 5 s of the deployed master's start gate."""

SPACING_SECONDS = 1.0
"""Shortest interval between polls, or checks of one meeting, that requests cause: invented ids and versions then cost
the master one call a second."""

_log = structlog.get_logger("trionode.meetings")


class Poller:
    """Polls the master for the meetings in progress, and hands each answer to `meetings`."""

    def __init__(self, master: Master, meetings: Meetings, sync_interval: float, rng: Random) -> None:
        self.answered = AutoResetEvent()
        """Set when a poll was answered, so that a failed heartbeat is repeated at once."""
        self.answered_at = 0.0
        """When the master last answered a poll, in Unix seconds; 0.0 before the first answer."""
        self._master = master
        self._meetings = meetings
        self._sync_interval = sync_interval
        self._rng = rng
        self._requested = AutoResetEvent()
        self._lock = trio.Lock()
        self._polled = Broadcast()
        self._began_at = self._failed_at = -inf
        self._answered_from = -inf
        """When the last answered poll began."""
        self._failure: NodeError | None = None

    @property
    def error(self) -> str:
        """Why the last poll failed; "" if it did not."""
        return "" if self._failure is None else str(self._failure)

    def request(self) -> None:
        """Request a poll now."""
        self._requested.set()

    async def poll(self, *, full: bool = False) -> None:
        """Poll the master, and apply its answer. Raises `OriginUnreachable` or `OriginError`."""
        async with self._lock:
            await self._poll(full=full)

    async def poll_since(self, moment: float) -> bool:
        """Return whether a poll that began at `moment` or later was answered; False after a wait: call again.

        So nobody is told "no such meeting" by an answer that is older than the request. The polls are shared by all
        callers, and at least `SPACING_SECONDS` apart. The failure of the last poll is raised for as long, whenever it
        began: otherwise callers would wait one after the other for a master that does not answer.
        """
        if self._answered_since(moment):
            return True
        pause = self._began_at + SPACING_SECONDS - trio.current_time()
        if pause > 0:
            with trio.move_on_after(pause):
                await self._polled.wait()
            return False
        async with self._lock:
            if not self._answered_since(moment) and trio.current_time() - self._began_at >= SPACING_SECONDS:
                await self._poll()
        return self._answered_since(moment)

    def _answered_since(self, moment: float) -> bool:
        if self._failure is not None and trio.current_time() - self._failed_at < SPACING_SECONDS:
            raise self._failure.with_traceback(None)
        return self._answered_from >= moment

    async def _poll(self, *, full: bool = False) -> None:
        began = self._began_at = trio.current_time()
        try:
            listed = await self._master.poll()
        except NodeError as error:
            self._failed_at, self._failure = trio.current_time(), error
            raise
        finally:
            # Waiters run after the next await, so after the answer was applied.
            self._polled.notify()
        self.answered.set()
        if self._failure is not None:
            self._failure = None
            self._meetings.retry(lambda meeting: meeting.unreachable)
        self.answered_at = time.time()
        self._answered_from = began
        await self._meetings.apply(listed, full=full)

    async def run(self) -> None:
        """Poll until cancelled, at about the same interval while the master does not answer.

        A poll costs the master little, and the first answered one shows that it is back.
        """
        failures = 0
        reminder = Reminder()
        full_at = trio.current_time() + self._sync_interval
        while True:
            full = trio.current_time() >= full_at
            try:
                await self.poll(full=full)
            except (OriginUnreachable, OriginError) as error:
                failures += 1
                if reminder.due(trio.current_time()):
                    _log.warning("the master does not answer; stored packages are served meanwhile", why=str(error))
                wait = retry_seconds(failures, self._rng.random(), longest=POLL_SECONDS)
            else:
                if failures:
                    _log.info("the master answers again", after_failures=failures)
                failures = 0
                reminder.reset()
                if full:
                    full_at = trio.current_time() + self._sync_interval
                # Jitter, so that nodes started together do not poll together for ever.
                wait = POLL_SECONDS * (0.9 + 0.2 * self._rng.random())
            with trio.move_on_after(wait):
                await self._requested.wait()
