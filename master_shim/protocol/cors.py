"""Cross-origin rules (CORS) of every answer: any origin may read it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_VARY = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"
"""The request's fields on which the answer to OPTIONS depends."""
_MAX_NAMES_BYTES = 1024
"""Longer lists of header names are not echoed: a request has a handful."""
_NAME_CHARACTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_, ")


def options_fields(allowed: str, fields: Mapping[str, str]) -> tuple[Header, ...]:
    """Return the headers of the answer (204) to an OPTIONS request, in addition to `HEADERS`.

    `allowed` is the value of Allow, such as "GET, HEAD, OPTIONS". `fields` are the request's header fields by name, in
    lower case. Only a preflight, which has Origin and Access-Control-Request-Method, is answered with what is allowed.
    The names of its Access-Control-Request-Headers are echoed: `*` does not cover Authorization, and the web views of
    older tablets do not support it.
    """
    methods = allowed.encode("ascii")
    headers: tuple[Header, ...] = ((b"allow", methods), (b"vary", _VARY))
    if "origin" not in fields or "access-control-request-method" not in fields:
        return headers
    headers = (*headers, (b"access-control-allow-methods", methods), (b"access-control-max-age", _MAX_AGE_SECONDS))
    names = fields.get("access-control-request-headers", "").encode("latin-1")
    if 0 < len(names) <= _MAX_NAMES_BYTES and _NAME_CHARACTERS.issuperset(names):
        headers = (*headers, (b"access-control-allow-headers", names))
    if fields.get("access-control-request-private-network") == "true":
        # A page from a public address asks this before it reaches a node of the local network.
        headers = (*headers, (b"access-control-allow-private-network", b"true"))
    return headers
