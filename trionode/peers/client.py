"""The client for other nodes. Every call raises `PeerFailed`, which says why the node is of no use now."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from master_shim import protocol

from ..errors import OriginError, OriginUnreachable, PeerFailed, PeerFailure
from ..master.responses import decode
from ..master.tls import tls_context
from ..master.transport import FetchPace, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from store import Digest

    from ..master.transport import Body
    from ..stats import PeerStats

CALL_SECONDS = 1.5
"""Time limit of a small call to another node, and of connecting to it: what takes longer on a LAN is of no use."""


class PeerClient:
    """Requests to other nodes, in the name of the node `node_id`. Closed by `aclose`.

    Certificates in `ca_file` are trusted, too. Raises `SettingError` if that file cannot be used.
    """

    def __init__(self, node_id: str, stats: PeerStats, ca_file: Path | None, pace: FetchPace) -> None:
        self._stats = stats
        self._node_id = node_id
        self._transport = Transport("", tls_context(ca_file), pace, CALL_SECONDS)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def renew(self) -> None:
        """Use new connections from now on; what is arriving over old ones arrives."""
        await self._transport.renew()

    def _count(self, count: int) -> None:
        self._stats.bytes_fetched += count

    async def health(self, peer: protocol.VersionNode) -> protocol.NodeHealth:
        """Return what a node says of itself."""
        with _failing(peer):
            return decode(await self._transport.call("GET", f"{_url(peer)}/health"), protocol.NodeHealth)

    async def progress(self, peer: protocol.VersionNode, meeting_id: str, **wanted: str) -> protocol.FillProgress:
        """Return how much of a package a node has. `wanted` is `v=<digest>` or `token=<token>`."""
        with _failing(peer):
            body = await self._transport.call("GET", f"{_meeting(peer, meeting_id)}/fill?{urlencode(wanted)}")
            return decode(body, protocol.FillProgress)

    @asynccontextmanager
    async def package_range(
        self, peer: protocol.VersionNode, meeting_id: str, digest: Digest, start: int, stop: int, *, urgent: bool
    ) -> AsyncIterator[Body]:
        """Open the bytes `[start, stop)` of a version, which a node sends as it gets them.

        `urgent`: no other source but the master is left.
        """
        url = f"{_meeting(peer, meeting_id)}/download-package?v={digest}"
        with _failing(peer):
            async with self._transport.range_body(url, self._request(urgent=urgent), start, stop, self._count) as body:
                yield body

    @asynccontextmanager
    async def package_stream(
        self, peer: protocol.VersionNode, meeting_id: str, token: str, start: int, *, urgent: bool
    ) -> AsyncIterator[Body]:
        """Open the package that a legacy master has under `token`, from the byte `start` on."""
        query = urlencode({"token": token, "from": start})
        url = f"{_meeting(peer, meeting_id)}/download-package?{query}"
        with _failing(peer):
            async with self._transport.whole_body(url, self._request(urgent=urgent), self._count) as body:
                yield body

    def _request(self, *, urgent: bool) -> dict[str, str]:
        return {protocol.PEER_FIELD: f"{self._node_id};urgent" if urgent else self._node_id}


def _url(peer: protocol.VersionNode) -> str:
    return f"{peer.scheme}://{peer.address}"


def _meeting(peer: protocol.VersionNode, meeting_id: str) -> str:
    return f"{_url(peer)}/api/v1/meetings/{quote(meeting_id, safe='')}"


@contextmanager
def _failing(peer: protocol.VersionNode) -> Iterator[None]:
    """Turn the errors of a request to `peer` into `PeerFailed`."""
    try:
        yield
    except OriginUnreachable as error:
        raise PeerFailed(peer.node_id, PeerFailure.UNREACHABLE, error.what) from error
    except OriginError as error:
        failure = PeerFailure.BUSY if error.status == 503 else PeerFailure.REFUSED
        raise PeerFailed(peer.node_id, failure, error.what) from error
