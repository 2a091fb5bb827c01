"""Where the bytes of a package come from: the master or another node, in ranges of a version or as a stream."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..errors import PeerFailed, PeerFailure
from .routing import MASTER

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from master_shim.protocol import VersionNode
    from store import Digest

    from ..master.client import Master
    from ..master.transport import Body
    from ..peers.client import PeerClient
    from .live_fill import LiveFill


class RangeSource(Protocol):
    """Where ranges of one version come from."""

    name: str
    """The id of a node; "" for the master."""

    def open_range(self, start: int, stop: int) -> AbstractAsyncContextManager[Body]:
        """Open the bytes `[start, stop)`; reading the body gives exactly these, or raises.

        Raises `PeerFailed`, or for the master `VersionGone`, `OriginError`, `OriginUnreachable`.
        """
        ...


class StreamSource(Protocol):
    """Where a package comes from whose digest is not known."""

    name: str
    """The id of a node; "" for the master."""

    def open_stream(self, start: int) -> AbstractAsyncContextManager[Body]:
        """Open the package from the byte `start` on; the master's from its first byte.

        Raises `PeerFailed`, or for the master `MeetingUnknown`, `OriginError`, `OriginUnreachable`.
        """
        ...

    async def digest(self) -> str | None:
        """Return the digest that the source has computed and compared; None while it has not, always for the master.

        Raises `PeerFailed`, as `REFUSED` also if it has nothing of the package.
        """
        ...


class OriginSource:
    """A version at a master with a shim."""

    name = MASTER

    def __init__(self, master: Master, digest: Digest) -> None:
        self._master = master
        self._digest = digest

    def open_range(self, start: int, stop: int) -> AbstractAsyncContextManager[Body]:
        """Open a range."""
        return self._master.package_range(self._digest, start, stop)


class PeerSource:
    """A version at another node, which has it or is filling it."""

    def __init__(self, client: PeerClient, peer: VersionNode, meeting_id: str, digest: Digest, *, urgent: bool) -> None:
        self.name = peer.node_id
        self._open = partial(client.package_range, peer, meeting_id, digest, urgent=urgent)

    def open_range(self, start: int, stop: int) -> AbstractAsyncContextManager[Body]:
        """Open a range."""
        return self._open(start, stop)


class OriginStream:
    """A package at a legacy master."""

    name = MASTER

    def __init__(self, master: Master, meeting_id: str) -> None:
        self._master = master
        self._meeting_id = meeting_id

    def open_stream(self, start: int) -> AbstractAsyncContextManager[Body]:
        """Open the package, from its first byte on."""
        return self._master.package(self._meeting_id)

    async def digest(self) -> None:
        """Return None: a legacy master does not compute it."""
        return


class PeerStream:
    """The package of a legacy master at another node, which has it or is fetching it under the same token."""

    def __init__(self, client: PeerClient, peer: VersionNode, live: LiveFill, *, urgent: bool) -> None:
        self.name = peer.node_id
        self._client = client
        self._peer = peer
        self._live = live
        self._urgent = urgent

    def open_stream(self, start: int) -> AbstractAsyncContextManager[Body]:
        """Open the package, from the byte `start` on."""
        live = self._live
        return self._client.package_stream(self._peer, live.meeting_id, live.token, start, urgent=self._urgent)

    async def digest(self) -> str | None:
        """Return the digest that the node has computed and compared, None while it has not."""
        progress = await self._client.progress(self._peer, self._live.meeting_id, token=self._live.token)
        if not progress.filled:
            raise PeerFailed(self.name, PeerFailure.REFUSED, "it has not kept the package")
        return progress.digest
