"""Tablets: they ask the master, follow its redirect, hash what comes, and go back when it breaks off."""

from __future__ import annotations

from dataclasses import dataclass, field
from socket import SO_RCVBUF, SOL_SOCKET
from typing import TYPE_CHECKING

import httpx
import trio
from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TRIES = 9
"""The deployed tablet tries three addresses, each three times."""

PAUSE_SECONDS = 0.1
"""Between two tries, so that a node that was killed can be found out."""

RECEIVE_BYTES = 64 * 1024
"""A small receive buffer: else most of a package is on its way already when the demo kills its node."""


@dataclass(slots=True)
class Outcome:
    """What became of one tablet's download. `origin` is the host:port that sent the whole package."""

    meeting_id: str
    digest: str = ""
    size: int = 0
    origin: str = ""
    broken: list[str] = field(default_factory=list)


async def download(
    master: str,
    meeting_id: str,
    number: int,
    *,
    bytes_per_second: float = 0.0,
    on_bytes: Callable[[str, int], None] = lambda _origin, _count: None,
) -> Outcome:
    """Download a meeting's package as tablet `number`; `digest` stays empty when all `TRIES` fail.

    Each tablet has an address of its own (127.0.1.n, all of which are this machine), as in a meeting room:
    the master tells by it that a client which comes back was failed by its node.
    """
    outcome = Outcome(meeting_id)
    transport = httpx.AsyncHTTPTransport(
        verify=False,  # there is no TLS here, and a verifying context takes longer to build than to use
        local_address=f"127.0.1.{number % 250 + 1}",
        socket_options=[(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)],
    )
    url = f"{master}/api/v1/meetings/{meeting_id}/download-package"
    async with httpx.AsyncClient(transport=transport, follow_redirects=True, timeout=20) as client:
        for attempt in range(TRIES):
            await trio.sleep(PAUSE_SECONDS if attempt else 0)
            try:
                await _try(client, url, outcome, bytes_per_second, on_bytes)
            except httpx.HTTPError as error:
                outcome.broken.append(repr(error))
            else:
                break
    return outcome


async def _try(
    client: httpx.AsyncClient, url: str, outcome: Outcome, rate: float, on_bytes: Callable[[str, int], None]
) -> None:
    hasher = blake3()
    size = 0
    begun = trio.current_time()
    async with client.stream("GET", url) as answer:
        answer.raise_for_status()
        origin = answer.url.netloc.decode()
        async for part in answer.aiter_raw():
            hasher.update(part)
            size += len(part)
            on_bytes(origin, len(part))
            if rate:
                await trio.sleep_until(begun + size / rate)
    outcome.digest, outcome.size, outcome.origin = hasher.hexdigest(), size, origin


async def download_all(
    master: str,
    meeting_ids: Sequence[str],
    *,
    bytes_per_second: float = 0.0,
    on_bytes: Callable[[str, int], None] = lambda _origin, _count: None,
) -> list[Outcome]:
    """Let one tablet for each entry of `meeting_ids` download, all at once; return what became of them."""
    outcomes: list[Outcome] = []

    async def one(number: int, meeting_id: str) -> None:
        found = await download(
            master, meeting_id, number, bytes_per_second=bytes_per_second, on_bytes=on_bytes
        )
        outcomes.append(found)

    async with trio.open_nursery() as nursery:
        for number, meeting_id in enumerate(meeting_ids):
            nursery.start_soon(one, number, meeting_id)
    return outcomes
