"""What to answer to a request for a file, from headers, size and ETag, as RFC 9110 has it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"[ \t]*bytes[ \t]*=[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r'(W/)?("[^"]*")')
_CODING = re.compile(
    r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:;[ \t]*q=([01](?:\.[0-9]{0,3})?)[ \t]*)?",
    re.ASCII | re.IGNORECASE,
)
_MAX_DIGITS = 19
"""Any number of more significant digits lies beyond the largest file (2**63 bytes)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer: its status, and the bytes `[start, start + count)` that form its body (count 0: none)."""

    status: int
    start: int
    count: int


def plan_answer(
    size: int,
    etag: str,
    *,
    range_header: str | None = None,
    if_range: str | None = None,
    if_none_match: str | None = None,
    if_match: str | None = None,
) -> Plan:
    """Decide what a GET is answered with: 200, 206, 304, 412 or 416.

    `etag` is strong and quoted; a header that occurs twice comes joined by a comma.
    A Range that does not parse, or names several ranges, is ignored, as RFC 9110 (14.2) allows.
    """
    if if_match is not None and not _matches(if_match, etag, weak=False):
        return Plan(412, 0, 0)
    if if_none_match is not None and _matches(if_none_match, etag, weak=True):
        return Plan(304, 0, 0)
    # A date or a weak tag in If-Range cannot vouch for single bytes, so the whole is sent (RFC 9110, 13.1.5).
    if range_header is None or (if_range is not None and if_range.strip() != etag):
        return Plan(200, 0, size)
    match = _RANGE.fullmatch(range_header)
    if match is None:
        return Plan(200, 0, size)
    first, last, suffix = (None if text is None else text.lstrip("0") for text in match.groups())
    if suffix is not None:
        count = min(_number(suffix), size)
        return Plan(206, size - count, count) if count else Plan(416, 0, 0)
    assert first is not None
    if match[2] and last is not None:
        if (len(last), last) < (len(first), first):
            return Plan(200, 0, size)  # backwards: no range at all (RFC 9110, 14.1.1)
        end = min(_number(last), size - 1)
    else:
        end = size - 1
    start = _number(first)
    if start >= size:
        return Plan(416, 0, 0)
    return Plan(206, start, end - start + 1)


def _number(digits: str) -> int:
    """Parse digits without leading zeros; one beyond any file is cut, so that ten thousand digits cost nothing."""
    return int(digits[: _MAX_DIGITS + 1] or "0")


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
