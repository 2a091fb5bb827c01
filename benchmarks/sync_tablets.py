"""Tablets, as a process: `python -m benchmarks.sync_tablets COUNT BEGAN PATH DIGEST ADDRESS...`.

One second after BEGAN, a time of the clock `time.monotonic`, each of COUNT tablets downloads PATH from one of the nodes
at ADDRESS..., spread evenly, and tries the next one after a failure. After a 503 it waits as `Retry-After` says. Prints
as JSON when each one had the package, in seconds from BEGAN, and the failed attempts. Wrong bytes are an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass, field

from blake3 import blake3

START_SECONDS = 1.0

READ_BYTES = 256 << 10

HEADERS_SECONDS = 30.0
"""The deployed tablet's time limit for the headers of an answer."""

SILENCE_SECONDS = 60.0
"""Time limit without a byte of a body."""

RETRY_SECONDS = 2.0


class FailedError(Exception):
    """An attempt failed; `wait` seconds until the next one."""

    def __init__(self, why: str, wait: float = RETRY_SECONDS) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(slots=True)
class Crowd:
    """What all tablets want, and what became of it."""

    began: float
    path: str
    digest: str
    addresses: list[str]
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def tablet(self, number: int) -> None:
        """Download until it succeeds."""
        while True:
            try:
                await self._attempt(self.addresses[number % len(self.addresses)])
            except (FailedError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                self.failures.append(repr(error))
                await asyncio.sleep(getattr(error, "wait", RETRY_SECONDS))
                number += 1
            else:
                self.seconds.append(time.monotonic() - self.began)
                return

    async def _attempt(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(HEADERS_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port), limit=READ_BYTES)
        with contextlib.closing(writer):
            writer.write(f"GET {self.path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(HEADERS_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = int(head.split(" ", 2)[1])
            fields = {
                name.lower(): value.strip() for name, _, value in (row.partition(":") for row in head.splitlines())
            }
            if status != 200:
                raise FailedError(f"status {status}", float(fields.get("retry-after", RETRY_SECONDS)))
            hasher = blake3()
            left = int(fields["content-length"])
            while left:
                async with asyncio.timeout(SILENCE_SECONDS):
                    data = await reader.read(READ_BYTES)
                if not data:
                    raise FailedError(f"{left} bytes are missing")
                hasher.update(data)
                left -= len(data)
        if hasher.hexdigest() != self.digest:
            raise SystemExit(f"{address} sent wrong bytes")


async def run(count: int, crowd: Crowd) -> None:
    """Let all tablets download, and print."""
    await asyncio.sleep(crowd.began + START_SECONDS - time.monotonic())
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(crowd.tablet(number))
    print(json.dumps({"seconds": crowd.seconds, "failures": crowd.failures}))


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), Crowd(float(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])))
