"""The answer on a connection over the limit, and how long it may take.

A tablet continues at the next node, as after a closed connection; but a proxy or a browser would retry a closed
connection at once.
"""

from __future__ import annotations

REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nConnection: close\r\n"
    b"Access-Control-Allow-Origin: *\r\nContent-Type: application/json\r\nContent-Length: 37\r\n\r\n"
    b'{"detail":"Too many connections now"}'
)

LINGER_SECONDS = 1.0
"""Time for a refused client to read the answer: closing with its request unread would make TCP discard the answer."""
