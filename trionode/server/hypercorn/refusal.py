"""Answers that the server gives itself, without the application: to what is no valid request, and over the limit.

A tablet continues at the next node after a 503, as after a closed connection; but a proxy or a browser would retry a
closed connection at once.
"""

from __future__ import annotations

import http
import json
import time
from math import inf

import structlog

from master_shim.protocol import cors

from .limits import WARN_SECONDS

DETAILS = {
    400: "The request is not valid HTTP",
    431: "The head of the request is too large",
    501: "The transfer encoding of the request is not supported",
}
"""The texts of the errors that are found before the application; others have their reason phrase."""

REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nConnection: close\r\n"
    b"Access-Control-Allow-Origin: *\r\nContent-Type: application/json\r\nContent-Length: 37\r\n\r\n"
    b'{"detail":"Too many connections now"}'
)

LINGER_SECONDS = 1.0
"""Time for a refused client to read the answer: closing with its request unread would make TCP discard the answer."""


_warned_at: dict[str, float] = {}
"""When a scheme that was spoken at the wrong port was last logged."""

_log = structlog.get_logger("trionode.server")


def error_answer(status: int, detail: str = "") -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the header fields and the body of an error, in the form of all others: JSON that any page may read."""
    body = json.dumps({"detail": detail or DETAILS.get(status) or http.HTTPStatus(status).phrase}).encode()
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *cors.HEADERS,
    ]
    return fields, body


def http_to_https_answer() -> bytes:
    """Return the answer to a client that speaks http where https is spoken."""
    fields, body = error_answer(400, "This port speaks https: begin the address with https://")
    lines = [b"HTTP/1.1 400 Bad Request", *(b"%s: %s" % field for field in fields), b"connection: close", b"", body]
    return b"\r\n".join(lines)


def warn_of_scheme(spoken: str, wanted: str) -> None:
    """Log, at most once a minute, that a client speaks http where https is spoken, or the reverse."""
    now = time.monotonic()
    if now - _warned_at.get(spoken, -inf) >= WARN_SECONDS:
        _warned_at[spoken] = now
        _log.warning(f"a client speaks {spoken} to this port, which speaks {wanted}: correct the address it was given")
