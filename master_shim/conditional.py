"""What to answer to a request for a file, from headers, size and ETag, as RFC 9110 has it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .byteranges import boundary_of, content_range, multipart, parse_ranges
from .dates import parse_date

_TAG = re.compile(r'(W/)?("[^"]*")')
_CODING = re.compile(
    r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:;[ \t]*q=([01](?:\.[0-9]{0,3})?)[ \t]*)?",
    re.ASCII | re.IGNORECASE,
)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer: its status, and the ranges of the file that are its body: all of it for 200, none for 304 and others.

    A 206 with several ranges is multipart/byteranges.
    """

    status: int
    ranges: tuple[range, ...] = ()


@dataclass(frozen=True, slots=True)
class Conditions:
    """The header fields of a GET or HEAD that decide on its answer; one that occurs twice comes joined by a comma."""

    range: str | None = None
    if_range: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None
    if_unmodified_since: str | None = None


def plan_answer(size: int, etag: str, asked: Conditions, *, modified: int | None = None, now: float = 0.0) -> Plan:
    """Decide what a GET of `size` bytes is answered with: 200, 206, 304, 412 or 416, in the order of RFC 9110, 13.2.2.

    `etag` is strong and quoted. `modified` is what Last-Modified says, in Unix seconds; None when it is not sent: dates
    are then ignored (13.1.3). A date in If-Range never matches: it vouches for single bytes only if nothing changed
    twice within its second, on one clock (8.8.2.2), which nobody here can promise. A Range that does not parse is
    ignored (14.2).
    """
    if asked.if_match is not None:
        if not _matches(asked.if_match, etag, weak=False):
            return Plan(412)
    elif modified is not None and asked.if_unmodified_since is not None:
        since = parse_date(asked.if_unmodified_since, now)
        if since is not None and modified > since:
            return Plan(412)
    if asked.if_none_match is not None:
        if not_modified(asked.if_none_match, etag):
            return Plan(304)
    elif modified is not None and asked.if_modified_since is not None:
        since = parse_date(asked.if_modified_since, now)
        if since is not None and modified <= since:
            return Plan(304)
    whole = Plan(200, (range(size),) if size else ())
    if asked.range is None or (asked.if_range is not None and asked.if_range.strip() != etag):
        return whole
    ranges = parse_ranges(asked.range, size)
    if ranges is None:
        return whole
    return Plan(206, ranges) if ranges else Plan(416)


def compose(plan: Plan, size: int, etag: str, media_type: str) -> tuple[Headers, tuple[bytes | range, ...]]:
    """Return the headers that say what a planned answer holds, and the pieces of its body.

    A piece is framing, or a range of the file. What has no body has Content-Length 0, but for 304, which describes
    what it does not send (RFC 9110, 15.4.5).
    """
    headers: Headers = (("ETag", etag), ("Accept-Ranges", "bytes"))
    if plan.status == 304:
        return headers, ()
    pieces: tuple[bytes | range, ...] = plan.ranges
    if len(plan.ranges) > 1:
        boundary = boundary_of(etag)
        pieces = multipart(plan.ranges, size, media_type, boundary)
        headers = (*headers, ("Content-Type", f"multipart/byteranges; boundary={boundary}"))
    elif plan.status in {200, 206}:
        headers = (*headers, ("Content-Type", media_type))
    if plan.status == 206 and len(plan.ranges) == 1:
        headers = (*headers, ("Content-Range", content_range(plan.ranges[0], size)))
    elif plan.status == 416:
        headers = (*headers, ("Content-Range", f"bytes */{size}"))
    return (*headers, ("Content-Length", str(sum(map(len, pieces))))), pieces


def not_modified(if_none_match: str | None, etag: str) -> bool:
    """Tell whether a client that sent this If-None-Match has `etag` (weak comparison) already."""
    return if_none_match is not None and _matches(if_none_match, etag, weak=True)


def _matches(header: str, etag: str, *, weak: bool) -> bool:
    if header.strip() == "*":
        return True
    return any(tag == etag and (weak or not is_weak) for is_weak, tag in _TAG.findall(header))


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether an Accept-Encoding header allows gzip (RFC 9110, 12.5.3); what does not parse does not."""
    star = False
    for item in accept_encoding.split(","):
        match = _CODING.fullmatch(item)
        if match is None:
            continue
        wanted = float(match.group(2) or "1") > 0
        coding = match.group(1).lower()
        if coding in {"gzip", "x-gzip"}:
            return wanted
        if coding == "*":
            star = wanted
    return star
