"""The deployed tablet: polls, chooses an entry at random, retries, tries the next. Runs under trio and asyncio.

A body is hashed as it arrives and not kept, so memory is bounded. Like the real tablet, this one accepts any 200 with a
complete HTTP body, whatever its content: the test checks the digest.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
import httpx
from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

POLL_LIMIT_SECONDS = 5.0
HEADERS_LIMIT_SECONDS = 30.0
TRIES_OF_AN_ENTRY = 3
ENTRIES_TRIED = 3


@dataclass
class Download:
    """The result of a download. `digest` is None if every try failed; `node` is the sender."""

    meeting_id: str
    digest: str | None = None
    size: int = 0
    node: str = ""
    tries: int = 0
    failures: list[str] = field(default_factory=list)
    expected: int | None = None
    """Content-Length, for the progress bar; None for a chunked answer."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.digest is not None


class TabletError(Exception):
    """One try of one URL failed."""


class Tablet:
    """A tablet. An async context manager, since it owns an HTTP client.

    `jitter` is the longest random wait before a download in seconds (deployed: 60); `choose` draws the entry;
    `read_seconds` is the time limit for the next bytes of a body.
    """

    def __init__(
        self,
        master: str,
        *,
        jitter: float = 0.0,
        poll_seconds: float = 5.0,
        headers_seconds: float = HEADERS_LIMIT_SECONDS,
        read_seconds: float = 60.0,
        choose: Callable[[int], int] = random.randrange,
        on_bytes: Callable[[str, int], None] | None = None,
    ) -> None:
        self.master = master.rstrip("/")
        self.jitter = jitter
        self.poll_seconds = poll_seconds
        self.headers_seconds = headers_seconds
        self.choose = choose
        self.on_bytes = on_bytes
        self.client = httpx.AsyncClient(
            verify=False,  # no TLS here, and a verifying context takes 20 ms to build
            trust_env=False,
            follow_redirects=True,
            timeout=httpx.Timeout(read_seconds, pool=None),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.client.aclose()

    async def poll(self) -> tuple[str, list[dict[str, Any]]] | None:
        """Return the token of one poll; None if the master does not answer in time or the token is "none"."""
        try:
            with anyio.fail_after(POLL_LIMIT_SECONDS):
                answer = await self.client.get(f"{self.master}/api/v1/meetings/status/token")
        except (httpx.HTTPError, TimeoutError):
            return None
        if answer.status_code != 200:
            return None
        found = answer.json()
        if found["id"] == "none":
            return None
        meetings = [meeting for meeting in found["meetings"] if meeting.get("status", "进行中") == "进行中"]
        return found["id"], meetings

    async def next_token(self, known: str = "") -> tuple[str, list[dict[str, Any]]]:
        """Poll until the token differs from `known`; return it with the meetings in progress."""
        while True:
            found = await self.poll()
            if found is not None and found[0] != known:
                return found
            await anyio.sleep(self.poll_seconds)

    async def attend(self, known: str = "", *, redirect: bool = False) -> list[Download]:
        """Wait for a new token, then download every meeting in progress, as a tablet does when one starts."""
        _token, meetings = await self.next_token(known)
        return [await self.fetch(meeting["id"], redirect=redirect) for meeting in meetings]

    async def data(self, meeting_id: str) -> dict[str, Any]:
        """Return the meeting's data. Raises TabletError if it has no `id`: the tablet then gives up."""
        answer = await self.client.get(self._meeting(meeting_id, "data"))
        found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        if not found.get("id"):
            raise TabletError(f"no meeting data: {answer.status_code} {answer.text[:200]}")
        return found

    async def fetch(self, meeting_id: str, *, redirect: bool = False) -> Download:
        """Get the data, wait a random time, and download from `download-nodes-info` or `download-package`."""
        result = Download(meeting_id)
        try:
            await self.data(meeting_id)
            await anyio.sleep(random.uniform(0, self.jitter))
            urls = [self._meeting(meeting_id, "download-package")] if redirect else await self._urls(meeting_id)
        except (httpx.HTTPError, TabletError) as error:
            result.failures.append(repr(error))
            return result
        return await self.download(result, urls)

    async def download(self, result: Download, urls: list[str]) -> Download:
        """Try one of `urls` drawn at random, then the next ones: at most 3 URLs, each up to 3 times."""
        begun = time.monotonic()
        first = self.choose(len(urls))
        for step in range(min(ENTRIES_TRIED, len(urls))):
            url = urls[(first + step) % len(urls)]
            for _ in range(TRIES_OF_AN_ENTRY):
                result.tries += 1
                try:
                    await self._try(url, result)
                except (httpx.HTTPError, TabletError, TimeoutError) as error:
                    result.failures.append(f"{url}: {error!r}")
                else:
                    result.seconds = time.monotonic() - begun
                    return result
        result.seconds = time.monotonic() - begun
        return result

    async def _try(self, url: str, result: Download) -> None:
        hasher = blake3()
        size = 0
        with anyio.fail_after(self.headers_seconds):
            answer = await self.client.send(self.client.build_request("GET", url), stream=True)
        try:
            if answer.status_code != 200:
                raise TabletError(f"status {answer.status_code}")
            node = answer.url.netloc.decode()
            async for part in answer.aiter_raw():
                hasher.update(part)
                size += len(part)
                if self.on_bytes is not None:
                    self.on_bytes(node, len(part))
        finally:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 1):
                await answer.aclose()
        length = answer.headers.get("content-length")
        result.expected = int(length) if length is not None else None
        result.digest, result.size, result.node = hasher.hexdigest(), size, node

    async def _urls(self, meeting_id: str) -> list[str]:
        answer = await self.client.get(self._meeting(meeting_id, "download-nodes-info"))
        entries = answer.json() if answer.status_code == 200 else []
        if not entries:
            raise TabletError(f"no nodes: {answer.status_code} {answer.text[:200]}")
        return [entry["download_url"] for entry in entries]

    def _meeting(self, meeting_id: str, what: str) -> str:
        return f"{self.master}/api/v1/meetings/{quote(meeting_id, safe='')}/{what}"
