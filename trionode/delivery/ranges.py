"""What to answer to a request for a package: the plan of `master_shim.conditional`, with the headers that say it. Pure.

Quart's own range code is not used: `bytes=-500` answers 500 there, a 416 lacks Content-Range and a 200 Accept-Ranges.

No Last-Modified is sent, and so dates are ignored (RFC 9110, 13.1.3 and 13.1.4): nodes have no common clock, and each
switches to a version at a time of its own. A client that keeps what one node sent, and asks another whether it has
changed since, would be told that an old version is current. The ETag says it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from master_shim.conditional import Conditions, Headers, compose
from master_shim.conditional import plan_answer as plan

MEDIA_TYPE = "application/zip"


class Fields(Protocol):
    """A request's header fields, found by name whatever their case."""

    def get(self, name: str, /) -> str | None:
        """Return a field's value, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, the headers that describe the body, and its pieces: framing, or ranges of the package.

    `pieces` is None for a package of unknown size, all of which is sent.
    """

    status: int
    headers: Headers
    pieces: tuple[bytes | range, ...] | None


UNKNOWN = Answer(200, (("Content-Type", MEDIA_TYPE),), None)
"""What can be said of a package of which neither size nor digest is known yet."""


def plan_answer(method: str, request: Fields, size: int, digest: str) -> Answer:
    """Decide between 200, 206, 304, 412 and 416, and say what the body is made of.

    `size` is the package's, in bytes, and `digest` the version, which is its strong ETag. Range is defined for GET
    alone (RFC 9110, 14.2).
    """
    etag = f'"{digest}"'
    asked = Conditions(
        range=request.get("Range") if method == "GET" else None,
        if_range=request.get("If-Range"),
        if_match=request.get("If-Match"),
        if_none_match=request.get("If-None-Match"),
    )
    planned = plan(size, etag, asked)
    headers, pieces = compose(planned, size, etag, MEDIA_TYPE)
    return Answer(planned.status, headers, pieces)
