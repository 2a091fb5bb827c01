"""The task that looks at the master: every few seconds, at once when told to, and in full every SYNC_INTERVAL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from ..errors import OriginError, OriginUnreachable
from .plan import retry_seconds

if TYPE_CHECKING:
    from random import Random

    from ..signals import Request
    from .meetings import Meetings

LOOK_SECONDS = 3.0
"""Between looks. The deployed master's start gate looks every 5 s; this and one fill fit into it."""

_log = structlog.get_logger("trionode.sync")


async def watch_master(meetings: Meetings, look_now: Request, sync_interval: float, chance: Random) -> None:
    """Look until cancelled. A master that is away is asked about as often as one that answers.

    That costs nobody anything, and the first look that is answered is how all else learns that the master is back.
    """
    failures = 0
    full_at = trio.current_time() + sync_interval
    while True:
        full = trio.current_time() >= full_at
        try:
            await meetings.look(full=full)
        except (OriginUnreachable, OriginError) as error:
            failures += 1
            if failures == 1:
                _log.warning("the master cannot be asked; what is stored is served meanwhile", why=str(error))
            wait = retry_seconds(failures, chance.random(), most=LOOK_SECONDS)
        else:
            if failures:
                _log.info("the master answers again", after_failures=failures)
            failures = 0
            if full:
                full_at = trio.current_time() + sync_interval
            # Nodes that started together do not ask together for ever.
            wait = LOOK_SECONDS * (0.9 + 0.2 * chance.random())
        with trio.move_on_after(wait):
            await look_now.taken()
