"""The latency of small requests: `python -m benchmarks.probe --port P --path /x --seconds S`.

Sends a request every 20 ms, alternately on a kept-alive and on a new connection, and waits for the whole answer. A
connection that the server has closed is replaced before the clock of the request starts. Prints one JSON object: `kept`
and `new`, seconds from sending (`new`: from connecting) to the end of the answer. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import socket
import sys
import time

PERIOD_SECONDS = 0.02

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


def connect(port: int) -> socket.socket:
    """Return a new connection."""
    made = socket.create_connection(("127.0.0.1", port), timeout=30)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def ask(connection: socket.socket, request: bytes) -> None:
    """Send the request and receive its whole answer."""
    connection.sendall(request)
    taken = b""
    while True:
        data = connection.recv(65536)
        if not data:
            sys.exit(f"wrong answer: {taken[:400]!r}")
        taken += data
        head, end, body = taken.partition(b"\r\n\r\n")
        if not end:
            continue
        length = _LENGTH.search(head + b"\r\n")
        if not taken.startswith(b"HTTP/1.1 200") or length is None:
            sys.exit(f"wrong answer: {taken[:400]!r}")
        if len(body) >= int(length[1]):
            return


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    request = f"GET {options.path} HTTP/1.1\r\nHost: 127.0.0.1:{options.port}\r\n\r\n".encode()
    kept: list[float] = []
    new: list[float] = []
    staying = connect(options.port)
    begun = time.perf_counter()
    while time.perf_counter() - begun < options.seconds:
        if select.select([staying], [], [], 0)[0]:
            staying.close()
            staying = connect(options.port)
        asked_at = time.perf_counter()
        ask(staying, request)
        kept.append(time.perf_counter() - asked_at)
        time.sleep(PERIOD_SECONDS)
        asked_at = time.perf_counter()
        with connect(options.port) as fresh:
            ask(fresh, request)
        new.append(time.perf_counter() - asked_at)
        time.sleep(PERIOD_SECONDS)
    print(json.dumps({"kept": kept, "new": new}))


if __name__ == "__main__":
    main()
