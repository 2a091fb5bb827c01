"""Tablets: request from the master, follow its redirect, hash the body, and start again if it is cut off."""

from __future__ import annotations

from dataclasses import dataclass, field
from socket import SO_RCVBUF, SOL_SOCKET
from typing import TYPE_CHECKING, Protocol

import httpx
import trio
from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Sequence

TRIES = 9
"""The deployed tablet tries three addresses, each three times."""

PAUSE_SECONDS = 0.1
"""Pause between two tries, in which the master can detect a killed node."""

RECEIVE_BYTES = 64 * 1024
"""A small receive buffer: otherwise most of a package is already in transit when the demo kills its node."""


class Watcher(Protocol):
    """Receives the progress of downloads."""

    def sent(self, sender: str, count: int) -> None:
        """Count `count` bytes from `sender`, a host:port."""

    def done(self) -> None:
        """Count a tablet that has ended, in success or failure."""


@dataclass(slots=True)
class Outcome:
    """The result of one tablet's download. `origin` is the host:port that sent the whole package."""

    meeting_id: str
    digest: str = ""
    size: int = 0
    origin: str = ""
    broken: list[str] = field(default_factory=list)


async def download(
    master: str,
    meeting_id: str,
    address: str,
    *,
    watcher: Watcher,
    bytes_per_second: float = 0.0,
) -> Outcome:
    """Download a meeting's package from the local `address`; `digest` stays empty if all `TRIES` fail."""
    outcome = Outcome(meeting_id)
    transport = httpx.AsyncHTTPTransport(
        verify=False,  # no TLS here; building a verifying context takes longer than the download
        local_address=address,
        socket_options=[(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)],
    )
    url = f"{master}/api/v1/meetings/{meeting_id}/download-package"
    async with httpx.AsyncClient(transport=transport, follow_redirects=True, timeout=20) as client:
        for attempt in range(TRIES):
            await trio.sleep(PAUSE_SECONDS if attempt else 0)
            try:
                await _try(client, url, outcome, bytes_per_second, watcher)
            except httpx.HTTPError as error:
                outcome.broken.append(repr(error))
            else:
                break
    watcher.done()
    return outcome


async def _try(client: httpx.AsyncClient, url: str, outcome: Outcome, rate: float, watcher: Watcher) -> None:
    hasher = blake3()
    size = 0
    begun = trio.current_time()
    async with client.stream("GET", url) as answer:
        answer.raise_for_status()
        origin = answer.url.netloc.decode()
        async for part in answer.aiter_raw():
            hasher.update(part)
            size += len(part)
            watcher.sent(origin, len(part))
            if rate:
                await trio.sleep_until(begun + size / rate)
    outcome.digest, outcome.size, outcome.origin = hasher.hexdigest(), size, origin


async def download_all(
    master: str,
    meeting_ids: Sequence[str],
    *,
    room: int,
    watcher: Watcher,
    bytes_per_second: float = 0.0,
) -> list[Outcome]:
    """Run one tablet for each entry of `meeting_ids`, all at once; return their results.

    Each tablet has its own local address, 127.0.ROOM.n, as in a meeting room: from a second request for the same
    package from one address the master concludes that its node has failed.
    """
    outcomes: list[Outcome] = []

    async def one(meeting_id: str, address: str) -> None:
        found = await download(master, meeting_id, address, bytes_per_second=bytes_per_second, watcher=watcher)
        outcomes.append(found)

    async with trio.open_nursery() as nursery:
        for number, meeting_id in enumerate(meeting_ids, 1):
            nursery.start_soon(one, meeting_id, f"127.0.{room}.{number}")
    return outcomes
