"""Asking the master for manifests: a legacy master, which has no such route, is asked once for all meetings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..errors import OriginError
from ..events import Broadcast

if TYPE_CHECKING:
    from store import Digest, Manifest

    from ..master.client import Master

FIRST_ANSWER_SECONDS = 1.0
"""Longest wait for the answer to another's request, which shows whether the route exists: a master that hashes a large
package before its answer does not hold up the other meetings."""


class NoManifests(Exception):
    """The master has no manifests: it is a legacy one."""


class Manifests:
    """The manifests of a master, which may be a legacy one until it has answered."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._exist: bool | None = None
        """Whether this master has the route; None until it is known."""
        self._asking = False
        self._answered = Broadcast()

    def forget(self) -> None:
        """Ask again: the master may have been replaced."""
        self._exist = None

    async def current(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        """Return the manifest of a meeting's current version, or None if that is still `known`.

        Raises `NoManifests`, `MeetingUnknown`, `OriginUnreachable`, `OriginError`. Until the first answer one call
        asks and the others wait: a legacy master may have hundreds of meetings.
        """
        if self._asking and self._exist is None and not self._master.protocol:
            with trio.move_on_after(FIRST_ANSWER_SECONDS):
                await self._answered.wait()
        if self._exist is False and not self._master.protocol:
            raise NoManifests
        self._asking = True
        try:
            manifest = await self._master.manifest(meeting_id, known)
        except OriginError as error:
            if self._master.protocol or error.status not in {404, 405}:
                raise
            self._exist = False
            raise NoManifests from error
        finally:
            self._asking = False
            self._answered.notify()
        self._exist = True
        return manifest
