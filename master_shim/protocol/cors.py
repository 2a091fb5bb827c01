"""Cross-origin rules (CORS) of every answer: any origin may read it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .target import Header

HEADERS: Final[tuple[Header, ...]] = (
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Repr-Digest, Retry-After",
    ),
)
"""For every answer, errors and redirects included: a browser follows a redirect only if the redirect allows it too."""

_MAX_AGE_SECONDS = b"600"
"""How long a browser may cache a preflight answer: a meeting's downloads need one, and a change shows soon."""
_MAX_NAMES_BYTES = 1024
"""Longer lists of header names are not echoed: a request has a handful."""
_NAME_CHARACTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_, ")


def preflight(allowed: str, requested_headers: str | None) -> tuple[Header, ...]:
    """Return the headers of the answer (204) to an OPTIONS request, in addition to `HEADERS`.

    `allowed` is the value of Allow, such as "GET, HEAD, OPTIONS". `requested_headers` is the request's
    Access-Control-Request-Headers: the names are echoed, since the web views of older tablets do not support `*`.
    """
    methods = allowed.encode("ascii")
    headers: tuple[Header, ...] = (
        (b"allow", methods),
        (b"access-control-allow-methods", methods),
        (b"access-control-max-age", _MAX_AGE_SECONDS),
        (b"vary", b"Access-Control-Request-Headers"),
    )
    names = (requested_headers or "").encode("latin-1")
    if 0 < len(names) <= _MAX_NAMES_BYTES and _NAME_CHARACTERS.issuperset(names):
        return (*headers, (b"access-control-allow-headers", names))
    return headers
