"""One download, from its place among the others to its line in the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from ..errors import AtCapacity
from .admission import Outcome

if TYPE_CHECKING:
    from .admission import Downloads, Place
    from .body import PackageBody

_log = structlog.get_logger("trionode.delivery")


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked for what, for the log. `range` is the header as it came, or None; `at` is the loop's time."""

    meeting: str
    version: str | None
    client: str
    range: str | None
    at: float


class Download:
    """A download that has arrived; its place is given up, and its end counted and logged, by `close`.

    Raises `AtCapacity` when the queue is full.
    """

    def __init__(self, downloads: Downloads, asked: Asked) -> None:
        self.body: PackageBody | None = None
        self._downloads = downloads
        self._asked = asked
        self._moved_up = trio.Event()
        self._refused = False
        try:
            self._place: Place = downloads.arrive(asked.version, self._moved_up.set)
        except AtCapacity:
            self._refuse()
            raise

    async def admitted(self, seconds: float) -> None:
        """Wait for the place, in the order of arrival. Raises `AtCapacity` when there is none within `seconds`."""
        if not self._place.admitted:
            with trio.move_on_after(seconds):
                await self._moved_up.wait()
        if not self._place.admitted:
            self._downloads.release(self._place)
            self._refuse()
            raise AtCapacity(self._downloads.limit)

    def _refuse(self) -> None:
        self._refused = True
        self._log(Outcome.REFUSED)

    def close(self) -> None:
        """End it, as far as it came."""
        self._downloads.release(self._place)
        if self._refused:
            return
        body = self.body
        if body is None or not (body.whole or body.failure):
            self._log(Outcome.LEFT)
        elif body.failure:
            self._log(Outcome.FAILED)
        else:
            self._downloads.duration.observe(trio.current_time() - self._asked.at)
            self._log(Outcome.SENT)

    def _log(self, outcome: Outcome) -> None:
        """Count the end, and write the one line of this download."""
        self._downloads.outcomes[outcome] += 1
        asked, body = self._asked, self.body
        facts: dict[str, object] = {"meeting": asked.meeting, "version": asked.version, "client": asked.client}
        if asked.range is not None:
            facts["range"] = asked.range[:100]
        if body is not None:
            facts["bytes"] = body.sent
            if body.began_at is not None:
                facts["first_byte"] = round(body.began_at - asked.at, 3)
                self._downloads.first_byte.observe(body.began_at - asked.at)
            if body.failure:
                facts["why"] = body.failure
        facts["seconds"] = round(trio.current_time() - asked.at, 3)
        if outcome is Outcome.FAILED:
            _log.warning("a download was cut off", **facts)
        else:
            _log.info("download", outcome=outcome.value, **facts)
