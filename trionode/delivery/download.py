"""One download, from its permit to its log line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from ..errors import AtCapacity
from .admission import Outcome
from .http import HEAD_SECONDS

if TYPE_CHECKING:
    from .admission import Downloads, Permit
    from .body import PackageBody

_log = structlog.get_logger("trionode.delivery")

MAX_LOGGED_RANGE_CHARS = 100
"""Length limit of a logged Range header."""


@dataclass(frozen=True, slots=True)
class DownloadInfo:
    """What a client requested, for the log. `range` is the header as received, or None; `at` is in Trio's clock."""

    meeting: str
    version: str | None
    client: str
    range: str | None
    at: float


class Download:
    """A download with a permit or a place in the queue. `close` releases it, and counts and logs the outcome.

    Raises `AtCapacity` when the queue is full.
    """

    def __init__(self, downloads: Downloads, info: DownloadInfo) -> None:
        self._body: PackageBody | None = None
        self._downloads = downloads
        self._info = info
        self._admitted = trio.Event()
        self._refused = False
        try:
            self._permit: Permit = downloads.request_permit(info.version, self._admitted.set)
        except AtCapacity:
            self._refuse()
            raise

    async def wait_admitted(self) -> None:
        """Wait for the permit, in the order of arrival. Raises `AtCapacity` after the queue's time limit.

        The time that the request has waited before counts for `HEAD_SECONDS`.
        """
        if not self._permit.admitted:
            refused_at = min(trio.current_time() + self._downloads.queue_seconds, self._info.at + HEAD_SECONDS)
            with trio.CancelScope(deadline=refused_at):
                await self._admitted.wait()
        if not self._permit.admitted:
            self._downloads.release(self._permit)
            self._refuse()
            raise AtCapacity(self._downloads.limit)

    def send(self, body: PackageBody) -> PackageBody:
        """Record the body that is sent, and return it."""
        self._body = body
        return body

    def close(self) -> None:
        """End the download, complete or not."""
        self._downloads.release(self._permit)
        if self._refused:
            return
        body = self._body
        if body is None or not (body.complete or body.failure):
            self._end(Outcome.LEFT)
        else:
            self._end(Outcome.FAILED if body.failure else Outcome.SENT)

    def _refuse(self) -> None:
        self._refused = True
        self._end(Outcome.REFUSED)

    def _end(self, outcome: Outcome) -> None:
        info, body = self._info, self._body
        facts: dict[str, object] = {"meeting": info.meeting, "version": info.version, "client": info.client}
        if info.range is not None:
            facts["range"] = info.range[:MAX_LOGGED_RANGE_CHARS]
        first_byte = None
        if body is not None:
            facts["bytes"] = body.sent
            if body.began_at is not None:
                first_byte = body.began_at - info.at
                facts["first_byte"] = round(first_byte, 3)
            if body.failure:
                facts["why"] = body.failure
        seconds = trio.current_time() - info.at
        facts["seconds"] = round(seconds, 3)
        self._downloads.count_end(outcome, seconds, first_byte)
        if outcome is Outcome.FAILED:
            _log.warning("download cut off", **facts)
        else:
            _log.info("download", outcome=outcome.value, **facts)
