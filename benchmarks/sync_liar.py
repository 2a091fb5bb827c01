"""A node that lies, as a process: `python -m benchmarks.sync_liar MASTER ADDRESS ID MEETING DIGEST SIZE`.

It registers at a master with the shim, says in its heartbeats that it is fetching the version DIGEST from the master,
and answers other nodes as one that has all of it, with wrong bytes. Each time it prints how many it has sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

from master_shim.protocol.chain import predecessors

if TYPE_CHECKING:
    from collections.abc import Sequence

BEAT_SECONDS = 1.0

BLOCK = b"This is not the package. " * 2621
"""About 64 KiB."""

_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)


def first_id(key: str, others: Sequence[str]) -> str:
    """Return an id that is before all `others` in the order of `key`."""
    return next(
        name for name in (f"liar-{number}" for number in itertools.count()) if not predecessors(key, name, others)
    )


class Liar:
    """The lying node's answers."""

    def __init__(self, node_id: str, digest: str, size: int) -> None:
        self._id = node_id
        self._digest = digest
        self._size = size
        self._sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].partition(b"?")[0]
            if path.endswith(b"/fill"):
                said = {"filled": self._size, "size": self._size, "digest": self._digest, "held": False, "source": ""}
                await _answer(writer, {**said, "slow": False})
            elif path.endswith(b"/download-package"):
                await self._lie(writer, head)
            else:
                await _answer(writer, {"status": "healthy", "node_id": self._id, "protocol": 1, "peers": "auto"})

    async def _lie(self, writer: asyncio.StreamWriter, head: bytes) -> None:
        found = _RANGE.search(head)
        start = int(found[1]) if found else 0
        stop = min(int(found[2]) + 1, self._size) if found and found[2] else self._size
        status = f"206 Partial Content\r\nContent-Range: bytes {start}-{stop - 1}/{self._size}" if found else "200 OK"
        said = f'Content-Type: application/zip\r\nETag: "{self._digest}"\r\nContent-Length: {stop - start}'
        writer.write(f"HTTP/1.1 {status}\r\n{said}\r\nConnection: close\r\n\r\n".encode())
        left = stop - start
        try:
            while left:
                piece = BLOCK[:left]
                writer.write(piece)
                await writer.drain()
                left -= len(piece)
                self._sent += len(piece)
        finally:
            print(self._sent, flush=True)  # also when the node has seen enough and hangs up


async def _answer(writer: asyncio.StreamWriter, found: dict[str, Any]) -> None:
    body = json.dumps(found).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()


def beat(master: str, body: dict[str, Any]) -> None:
    """Send one heartbeat."""
    request = urllib.request.Request(f"{master}/api/v1/nodes/heartbeat", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
        answer.read()


async def run(master: str, address: str, node_id: str, meeting: str, digest: str, size: int) -> None:
    """Serve, and send heartbeats, until cancelled."""
    body = {"node_id": node_id, "address": address, "status": "online", "synced_meetings": [], "packages": {}}
    body |= {"active_meetings": [{"id": meeting, "title": meeting}], "filling": [digest], "sources": {digest: ""}}
    body |= {"protocol": 1, "scheme": "http", "instance": "one", "tickets": [], "load": {}}
    host, _, port = address.rpartition(":")
    async with await asyncio.start_server(Liar(node_id, digest, size).serve, host, int(port)):
        while True:
            await asyncio.to_thread(beat, master, body)
            await asyncio.sleep(BEAT_SECONDS)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:6], int(sys.argv[6])))  # type: ignore[call-arg]  # five words and a number
