"""A load client with little overhead: `python -m benchmarks.client --port P --path /x --connections N --seconds S`.

One process, one epoll, N keep-alive connections; each repeats its request as soon as the answer has ended, or stops
then (`--once`). Headers are read and checked; bodies are received with `recv(..., MSG_TRUNC)`, which on Linux's TCP
drops the bytes in the kernel without copying them, or with `--copy` into a buffer. With `--tls` the handshake and the
request are real and the received records are dropped without decryption; each answer ends its connection, since its
end is not visible otherwise. With `--spread` each connection requests the rest of the file from its own offset; the
offsets are evenly spaced. The clock starts when all connections are open and the first request is about to be sent,
so the first wave counts, as at the start of a meeting; it stops after S seconds, in the middle of answers, or with
`--once` as soon as every answer has ended. The processor time of the server's processes is read from /proc at both
moments.

Prints one JSON object: bytes (of bodies; with TLS of records, 0.14 % more), seconds, finished (answers), first_byte
(seconds from each request to the first byte of its answer; none with TLS), finish (with `--once`: seconds from the
start to the end of each complete answer), failed (with `--once`: wrong or incomplete answers), server_cpu and
client_cpu (seconds). Imports only the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import socket
import ssl
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

BLOCK_BYTES = 1 << 20
"""Size of one `recv`: with more, connections wait for each other; with less, calls cost more."""

HEAD_LIMIT = 16 * 1024

TLS_OVERHEAD = 1.02
"""Records add 22 bytes to each 16 KiB; an answer longer than this factor is not the package."""

_TICKS = os.sysconf("SC_CLK_TCK")

_CHUNK = re.compile(rb"(?:\r\n)?([0-9a-fA-F]+)[^\r\n]*\r\n")


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
        # The name, in parentheses, may contain spaces: count fields after it.
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


class WrongAnswer(Exception):
    """An answer is not the expected one, so the figures would be invalid."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The request of every connection, and how its answer is received. `size` is that of the body in bytes."""

    port: int
    path: str
    size: int
    once: bool = False
    copy: bool = False
    tls: bool = False
    begin: int | None = None
    """With `--spread`: the first byte of the range, which ends with the file (status 206)."""

    @property
    def request(self) -> bytes:
        """The bytes of the request."""
        more = "Connection: close\r\n" if self.tls else ""
        more += "" if self.begin is None else f"Range: bytes={self.begin}-\r\n"
        head = f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAccept-Encoding: identity\r\n{more}\r\n"
        return head.encode()

    @property
    def status(self) -> bytes:
        """Beginning of the answer's first line, in lower case."""
        return b"http/1.1 200" if self.begin is None else b"http/1.1 206"

    @property
    def flags(self) -> int:
        """Flags of `recv` for bytes of a body."""
        return 0 if self.copy else socket.MSG_TRUNC

    def connect(self) -> socket.socket:
        """Return a new connection."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


class Connection:
    """One keep-alive connection. `remaining` is the rest of the body or chunk in bytes; -1: headers come next."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._asked_at = 0.0
        self._chunked = False
        self._body = 0
        self.remaining = -1
        self.finished = 0
        self.ended = False
        self.first_byte: list[float] = []
        self.socket = ask.connect()

    def ask(self) -> None:
        """Send the request."""
        self.socket.setblocking(True)
        self._asked_at = time.perf_counter()
        self.socket.sendall(self._ask.request)
        self.socket.setblocking(False)
        self.remaining = -1
        self.ended = False

    def take(self, sink: bytearray) -> int:
        """Receive once; return the number of body bytes. `ended` is set after a complete answer."""
        if self.remaining < 0:
            self._take_head()
            return 0
        if self.remaining == 0:
            self._take_chunk_head()
            return 0
        count = self.socket.recv_into(sink, min(self.remaining, BLOCK_BYTES), self._ask.flags)
        if count == 0:
            raise WrongAnswer(f"the connection ended after {self._body} bytes of the body")
        self.remaining -= count
        self._body += count
        if self.remaining == 0 and not self._chunked:
            self._end()
        return count

    def _take_head(self) -> None:
        # Peek first, to receive exactly the headers: the body is then counted alike however it arrives.
        seen = self.socket.recv(HEAD_LIMIT, socket.MSG_PEEK)
        head, end, _ = seen.partition(b"\r\n\r\n")
        if not end:
            if not seen or len(seen) == HEAD_LIMIT:
                raise WrongAnswer(f"incomplete headers: {seen[:200]!r}")
            return
        self.first_byte.append(time.perf_counter() - self._asked_at)
        self.socket.recv(len(head) + len(end))
        lines = head.lower().split(b"\r\n")
        self._chunked = b"transfer-encoding: chunked" in lines
        known = b"content-length: %d" % self._ask.size in lines
        # A node that is still fetching the package may not know its size.
        if not lines[0].startswith(self._ask.status) or not (known or (self._ask.once and self._chunked)):
            raise WrongAnswer(f"not {self._ask.status!r} with content-length {self._ask.size}: {head[:400]!r}")
        self._body = 0
        self.remaining = 0 if self._chunked else self._ask.size

    def _take_chunk_head(self) -> None:
        seen = self.socket.recv(64, socket.MSG_PEEK)
        if not seen:
            raise WrongAnswer(f"the connection ended after {self._body} bytes of the body")
        if (head := _CHUNK.match(seen)) is None:
            return
        self.socket.recv(head.end())
        self.remaining = int(head[1], 16)
        if self.remaining == 0:
            self._end()

    def _end(self) -> None:
        if self._body != self._ask.size:
            raise WrongAnswer(f"{self._body} bytes of {self._ask.size}")
        self.finished += 1
        self.ended = True


class TlsConnection:
    """One connection for each answer, whose TLS records are dropped."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self.finished = 0
        self.ended = False
        self.first_byte: list[float] = []
        self.socket = ask.connect()

    def ask(self) -> None:
        """Begin the handshake, which `take` continues."""
        if self.ended:
            self.socket.close()
            self.socket = self._ask.connect()
        self.ended = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        self._secured = False
        self._received = 0
        self._shake()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            self._secured = True
            self._tls.write(self._ask.request)
        self.socket.setblocking(True)
        self.socket.sendall(self._outgoing.read())
        self.socket.setblocking(False)

    def take(self, sink: bytearray) -> int:
        """Take what is there; return how many bytes of the answer it was. `ended` as for `Connection`."""
        if not self._secured:
            if not (data := self.socket.recv(HEAD_LIMIT)):
                raise WrongAnswer("the connection ended in its handshake")
            self._incoming.write(data)
            self._shake()
            return 0
        count = self.socket.recv_into(sink, BLOCK_BYTES, self._ask.flags)
        self._received += count
        if count == 0:
            self._end()
        return count

    def _end(self) -> None:
        if not self._ask.size <= self._received <= self._ask.size * TLS_OVERHEAD + HEAD_LIMIT:
            raise WrongAnswer(f"{self._received} bytes of TLS for a body of {self._ask.size}")
        self.finished += 1
        self.ended = True


class Crowd:
    """All connections of one run, and what they got."""

    def __init__(self, ask: Ask, count: int, *, spread: bool = False) -> None:
        self._ask = ask
        self._count = count
        self._poll = select.epoll()
        asks = [_from(ask, ask.size * number // count) for number in range(count)] if spread else [ask] * count
        self._connections = [TlsConnection(one) if one.tls else Connection(one) for one in asks]
        self._waiting: dict[int, Connection | TlsConnection] = {}
        self._finish: list[float] = []
        self._failed = 0
        self._total = 0

    def run(self, seconds: float) -> dict[str, object]:
        """Ask all at once and take until the time is over, or nothing is left to take."""
        begun = time.perf_counter()
        for connection in self._connections:
            self._begin(connection)
        sink = bytearray(BLOCK_BYTES)
        while (now := time.perf_counter()) - begun < seconds and self._waiting:
            for descriptor, _ in self._poll.poll(0.5, self._count):
                connection = self._waiting[descriptor]
                with contextlib.suppress(BlockingIOError):
                    self._take(connection, descriptor, sink)
                if connection.ended and self._ask.once:
                    self._finish.append(time.perf_counter() - begun)
                    self._forget(descriptor)
                elif connection.ended:
                    self._forget(descriptor)
                    self._begin(connection)
        return {
            "bytes": self._total,
            "seconds": now - begun,
            "finished": sum(connection.finished for connection in self._connections),
            "first_byte": [wait for connection in self._connections for wait in connection.first_byte],
            "finish": self._finish,
            "failed": self._failed,
        }

    def _begin(self, connection: Connection | TlsConnection) -> None:
        connection.ask()
        self._waiting[connection.socket.fileno()] = connection
        self._poll.register(connection.socket.fileno(), select.EPOLLIN)

    def _forget(self, descriptor: int) -> None:
        del self._waiting[descriptor]
        self._poll.unregister(descriptor)

    def _take(self, connection: Connection | TlsConnection, descriptor: int, sink: bytearray) -> None:
        try:
            self._total += connection.take(sink)
        except BlockingIOError:
            raise
        except (WrongAnswer, OSError):
            if not self._ask.once:
                raise
            self._failed += 1
            self._forget(descriptor)


def _from(ask: Ask, begin: int) -> Ask:
    """Return what asks for the bytes from `begin` on."""
    return replace(ask, begin=begin, size=ask.size - begin)


def run(ask: Ask, count: int, seconds: float, server_pid: int, *, spread: bool = False) -> dict[str, object]:
    """Measure; see the module's docstring for what is returned."""
    crowd = Crowd(ask, count, spread=spread)
    server_before, client_before = cpu_seconds(server_pid), time.process_time()
    found = crowd.run(seconds)
    found["server_cpu"] = cpu_seconds(server_pid) - server_before
    found["client_cpu"] = time.process_time() - client_before
    return found


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--size", type=int, required=True, help="expected size of each body in bytes")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--server-pid", type=int, required=True)
    parser.add_argument("--once", action="store_true", help="one answer for each connection")
    parser.add_argument("--copy", action="store_true", help="copy the bytes to this process, as other clients do")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--spread", action="store_true", help="another offset in the file for each connection")
    options = parser.parse_args()
    ask = Ask(options.port, options.path, options.size, options.once, options.copy, options.tls)
    try:
        found = run(ask, options.connections, options.seconds, options.server_pid, spread=options.spread)
    except WrongAnswer as error:
        sys.exit(f"wrong answer: {error}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
