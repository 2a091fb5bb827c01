"""What to answer to a request for a package: the plan of `master_shim.conditional`, with the headers that say it. Pure.

Quart's own range code is not used: `bytes=-500` answers 500 there, a 416 lacks Content-Range and a 200 Accept-Ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from master_shim import conditional

Headers = tuple[tuple[str, str], ...]


class Fields(Protocol):
    """A request's header fields, found by name whatever their case."""

    def get(self, name: str, /) -> str | None:
        """Return a field's value, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, the slice `[start, stop)` of the package that is its body (in bytes), and its range headers."""

    status: int
    start: int
    stop: int
    headers: Headers


def plan_answer(method: str, request: Fields, size: int, digest: str) -> Answer:
    """Decide between 200, 206, 304, 412 and 416, and say how large the body is.

    `size` is the package's, in bytes, and `digest` the version, which is its strong ETag. Range is defined for GET
    alone (RFC 9110, 14.2).
    """
    etag = f'"{digest}"'
    plan = conditional.plan_answer(
        size,
        etag,
        range_header=request.get("Range") if method == "GET" else None,
        if_range=request.get("If-Range"),
        if_none_match=request.get("If-None-Match"),
        if_match=request.get("If-Match"),
    )
    headers: Headers = (("ETag", etag), ("Accept-Ranges", "bytes"))
    if plan.status in {200, 206}:
        headers = (*headers, ("Content-Length", str(plan.count)))
    if plan.status == 206:
        headers = (*headers, ("Content-Range", f"bytes {plan.start}-{plan.start + plan.count - 1}/{size}"))
    if plan.status == 416:
        headers = (*headers, ("Content-Range", f"bytes */{size}"))
    return Answer(plan.status, plan.start, plan.start + plan.count, headers)
