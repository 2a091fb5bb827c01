"""Answers that the server gives itself, without the application: to what is no valid request, and over the limit.

A tablet continues at the next node after a 503, as after a closed connection; but a proxy or a browser would retry a
closed connection at once.
"""

from __future__ import annotations

import http
import json

from master_shim.protocol import cors

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


def error_answer(status: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the header fields and the body of an error, in the form of all others: JSON that any page may read."""
    body = json.dumps({"detail": DETAILS.get(status) or http.HTTPStatus(status).phrase}).encode()
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *cors.HEADERS,
    ]
    return fields, body
