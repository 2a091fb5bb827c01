"""A relay in front of a master that counts the bodies it sends: `python -m benchmarks.sync_relay LISTEN TO SOCKET`.

LISTEN and TO are host:port. Bodies are counted by kind (package, manifest, other) and by the client's address, as they
are written to the client. Whoever connects to the Unix socket SOCKET gets the counts as JSON. So counting costs nothing
on the master's line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import sys
from collections import Counter, defaultdict
from pathlib import Path

PACKAGE, MANIFEST, OTHER = "package", "manifest", "other"

BLOCK_BYTES = 64 << 10
"""Read at once, and the most that is written to a client before it is on its way. So little is counted that a client
who hangs up never gets."""

_PACKAGE = re.compile(r"/api/v1/packages/[0-9a-f]{64}|/api/v1/meetings/[^/]+/download-package(-direct)?")
_MANIFEST = re.compile(r"/api/v1/meetings/[^/]+/manifest|/api/v1/packages/[0-9a-f]{64}/manifest")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


def kind_of(target: str, status: int) -> str:
    """Return the kind of an answer's body."""
    path = target.partition("?")[0]
    if status not in {200, 206}:
        return OTHER
    return PACKAGE if _PACKAGE.fullmatch(path) else MANIFEST if _MANIFEST.fullmatch(path) else OTHER


class Relay:
    """Passes requests on one by one to the master at `host` and `port`, and counts."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self.sent: dict[str, Counter[str]] = defaultdict(Counter)
        """Bytes of bodies by kind and client."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a client until one side closes."""
        writer.transport.set_write_buffer_limits(BLOCK_BYTES)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, BLOCK_BYTES)
        client = writer.get_extra_info("peername")[0]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            behind_reader, behind_writer = await asyncio.open_connection(*self._upstream)
            with contextlib.closing(behind_writer):
                while await self._pass_on(reader, behind_writer, behind_reader, writer, client):
                    pass

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        behind_writer: asyncio.StreamWriter,
        behind_reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: str,
    ) -> bool:
        """Pass on one request and its answer. Return whether another can follow on these connections."""
        head = await reader.readuntil(_HEAD_END)
        method, target, _ = head.decode("latin-1").split(" ", 2)
        behind_writer.write(head)
        if length := _LENGTH.search(head):
            behind_writer.write(await reader.readexactly(int(length[1])))
        await behind_writer.drain()
        answer = await behind_reader.readuntil(_HEAD_END)
        status = int(answer.split(b" ", 2)[1])
        counts = self.sent[kind_of(target, status)]
        writer.write(answer)
        if method == "HEAD" or status in {204, 304}:
            await writer.drain()
        elif _CHUNKED.search(answer):
            await _copy_chunks(behind_reader, writer, counts, client)
        elif length := _LENGTH.search(answer):
            await _copy(behind_reader, writer, int(length[1]), counts, client)
        else:
            await _copy(behind_reader, writer, None, counts, client)
            return False
        return True

    async def tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Write the counts."""
        with contextlib.closing(writer):
            writer.write(json.dumps(self.sent).encode())
            await writer.drain()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int | None, counts: Counter[str], client: str
) -> None:
    """Copy a body of `size` bytes; None: up to the end of the connection."""
    left = size
    while left != 0:
        data = await reader.read(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))
        if not data:
            if left is None:
                return
            raise asyncio.IncompleteReadError(b"", left)
        writer.write(data)
        await writer.drain()
        counts[client] += len(data)
        left = None if left is None else left - len(data)
    await writer.drain()


async def _copy_chunks(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counts: Counter[str], client: str
) -> None:
    """Copy a chunked body; only what is in the chunks is counted."""
    while True:
        line = await reader.readuntil(b"\r\n")
        writer.write(line)
        if not (size := int(line.partition(b";")[0], 16)):
            break
        await _copy(reader, writer, size, counts, client)
        writer.write(await reader.readexactly(2))
    # No server here sends trailers.
    writer.write(await reader.readexactly(2))
    await writer.drain()


def read_counts(path: Path) -> dict[str, dict[str, int]]:
    """Return the counts of the relay whose Unix socket is `path`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        with connection.makefile("rb") as file:
            found: dict[str, dict[str, int]] = json.loads(file.read())
    return found


async def run(listen: str, to: str, path: Path) -> None:
    """Serve until cancelled."""
    host, _, port = to.rpartition(":")
    relay = Relay(host, int(port))
    host, _, port = listen.rpartition(":")
    told = await asyncio.start_unix_server(relay.tell, path)
    server = await asyncio.start_server(relay.serve, host, int(port), backlog=1024)
    async with told, server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
