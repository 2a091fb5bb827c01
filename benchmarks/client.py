"""A client that costs next to nothing: `python -m benchmarks.client --port P --path /x --connections N --seconds S`.

One process, one epoll, N keep-alive connections; each asks for the path again as soon as its answer has ended.
Headers are read and checked; bodies are taken with `recv(..., MSG_TRUNC)`, which on Linux's TCP drops the bytes in
the kernel without copying them. The clock starts when all connections stand and the first request is about to
be sent, so the first wave counts, as it does when a meeting starts; it stops after S seconds, in the middle of
whatever is going on. The processor time of the server's processes is read from /proc at both moments.

Prints one JSON object: bytes (of bodies), seconds, finished (answers), first_byte (seconds each request waited for
the first byte of its answer), server_cpu and client_cpu (seconds). Imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import sys
import time
from pathlib import Path

BLOCK_BYTES = 1 << 20
"""Asked of the kernel in one call; more makes connections wait for each other, less costs calls."""

HEAD_LIMIT = 16 * 1024

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return a process and its living descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in task.read_text().split():
                found += family(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time, user and system, that a process and its living descendants have used."""
    total = 0
    for member in family(pid):
        # The name, in parentheses, may hold spaces: fields are counted from behind it.
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


class WrongAnswer(Exception):
    """An answer that is not what is measured: the figures would be worthless."""


class Connection:
    """One keep-alive connection. `remaining` is the rest of the body, -1 while headers are awaited."""

    def __init__(self, port: int, request: bytes, size: int) -> None:
        self._port = port
        self._request = request
        self._size = size
        self._head = b""
        self._asked_at = 0.0
        self.remaining = -1
        self.finished = 0
        self.first_byte: list[float] = []
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def ask(self) -> None:
        """Send the request."""
        self.socket.setblocking(True)
        self._asked_at = time.perf_counter()
        self.socket.sendall(self._request)
        self.socket.setblocking(False)
        self.remaining = -1
        self._head = b""

    def take(self, sink: bytearray) -> int:
        """Take what is there; return the bytes of body among it. Asks again at the end of an answer."""
        if self.remaining < 0:
            return self._take_head()
        count = self.socket.recv_into(sink, min(self.remaining, BLOCK_BYTES), socket.MSG_TRUNC)
        if count == 0:
            raise WrongAnswer(f"the connection ended {self.remaining} bytes before the body")
        return self._taken(count)

    def _take_head(self) -> int:
        data = self.socket.recv(4096)
        if not self._head:
            self.first_byte.append(time.perf_counter() - self._asked_at)
        if not data or len(self._head) > HEAD_LIMIT:
            raise WrongAnswer(f"no whole headers, but {self._head[:200]!r}")
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            return 0
        lines = head.lower().split(b"\r\n")
        if not lines[0].startswith(b"http/1.1 200") or b"content-length: %d" % self._size not in lines:
            raise WrongAnswer(f"not a 200 with content-length {self._size}: {head[:400]!r}")
        self.remaining = self._size
        return self._taken(len(body))

    def _taken(self, count: int) -> int:
        self.remaining -= count
        if self.remaining == 0:
            self.finished += 1
            self.ask()
        return count


def run(port: int, path: str, size: int, count: int, seconds: float, server_pid: int) -> dict[str, object]:
    """Measure; see the module's docstring for what is returned."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept-Encoding: identity\r\n\r\n".encode()
    sink = bytearray(BLOCK_BYTES)
    poll = select.epoll()
    connections = [Connection(port, request, size) for _ in range(count)]
    by_descriptor = {connection.socket.fileno(): connection for connection in connections}
    server_before, client_before = cpu_seconds(server_pid), time.process_time()
    begun = time.perf_counter()
    for descriptor, connection in by_descriptor.items():
        connection.ask()
        poll.register(descriptor, select.EPOLLIN)
    total = 0
    while (now := time.perf_counter()) - begun < seconds:
        for descriptor, _ in poll.poll(0.5, count):
            with contextlib.suppress(BlockingIOError):
                total += by_descriptor[descriptor].take(sink)
    server_cpu, client_cpu = cpu_seconds(server_pid) - server_before, time.process_time() - client_before
    for connection in connections:
        connection.socket.close()
    return {
        "bytes": total,
        "seconds": now - begun,
        "finished": sum(connection.finished for connection in connections),
        "first_byte": [wait for connection in connections for wait in connection.first_byte],
        "server_cpu": server_cpu,
        "client_cpu": client_cpu,
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--size", type=int, required=True, help="bytes each body must have")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--server-pid", type=int, required=True)
    options = parser.parse_args()
    try:
        found = run(options.port, options.path, options.size, options.connections, options.seconds, options.server_pid)
    except WrongAnswer as error:
        sys.exit(f"wrong answer: {error}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
