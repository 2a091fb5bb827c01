"""Conditional requests and content negotiation, evaluated as RFC 9110 has it. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_TAG = re.compile(r'(W/)?("[^"]*")')
_CODING = re.compile(
    r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:;[ \t]*q=([01](?:\.[0-9]{0,3})?)[ \t]*)?",
    re.ASCII | re.IGNORECASE,
)
_TIME = "[0-9]{2}:[0-9]{2}:[0-9]{2}"
_DATE = re.compile(
    rf"[A-Z][a-z]{{2}}, [0-9]{{2}} [A-Z][a-z]{{2}} [0-9]{{4}} {_TIME} GMT"
    rf"|[A-Z][a-z]{{5,8}}, [0-9]{{2}}-[A-Z][a-z]{{2}}-([0-9]{{2}}) {_TIME} GMT"  # RFC 850, obsolete
    rf"|[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [0-9 ][0-9] {_TIME} [0-9]{{4}}"  # asctime(), obsolete
)
"""The three forms of RFC 9110, 5.6.7. The standard library's parser accepts far more, other time zones among it."""


def check_conditions(fields: Mapping[str, str], etag: str, *, modified: int | None, now: float) -> int | None:
    """Return 304 or 412 if the preconditions decide the answer, else None (RFC 9110, 13.2.2).

    `modified` is the value of Last-Modified in Unix seconds. If it is None, dates are ignored (13.1.3, 13.1.4).
    """
    if (if_match := fields.get("if-match")) is not None:
        if not _matches(if_match, etag, weak=False):
            return 412
    elif modified is not None and (before := fields.get("if-unmodified-since")) is not None:
        since = parse_date(before, now)
        if since is not None and modified > since:
            return 412
    if (if_none_match := fields.get("if-none-match")) is not None:
        if not_modified(if_none_match, etag):
            return 304
    elif modified is not None and (after := fields.get("if-modified-since")) is not None:
        since = parse_date(after, now)
        if since is not None and modified <= since:
            return 304
    return None


def range_applies(if_range: str | None, etag: str) -> bool:
    """Tell whether a Range header is to be honoured with this If-Range.

    A date never matches: it is a strong validator only if the file did not change twice within its second by one clock
    (RFC 9110, 8.8.2.2), which cannot be guaranteed here.
    """
    return if_range is None or if_range.strip() == etag


def not_modified(if_none_match: str | None, etag: str) -> bool:
    """Tell whether an If-None-Match header matches `etag` (weak comparison)."""
    return if_none_match is not None and _matches(if_none_match, etag, weak=True)


def _matches(header: str, etag: str, *, weak: bool) -> bool:
    if header.strip() == "*":
        return True
    return any(tag == etag and (weak or not is_weak) for is_weak, tag in _TAG.findall(header))


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether an Accept-Encoding header allows gzip (RFC 9110, 12.5.3). Malformed items are ignored."""
    star = False
    for item in accept_encoding.split(","):
        match = _CODING.fullmatch(item)
        if match is None:
            continue
        allowed = float(match.group(2) or "1") > 0
        coding = match.group(1).lower()
        if coding in {"gzip", "x-gzip"}:
            return allowed
        if coding == "*":
            star = allowed
    return star


def parse_date(text: str, now: float) -> int | None:
    """Return the Unix second of an HTTP date, or None if it is invalid.

    `now` (Unix seconds) determines the century of a two-digit year: at most 50 years ahead.
    """
    text = text.strip(" \t")
    match = _DATE.fullmatch(text)
    parsed = match and parsedate(text)
    if not match or not parsed:
        return None
    year, month, day, hour, minute, second = parsed[:6]
    if match[1]:
        this_year = datetime.fromtimestamp(now, UTC).year
        year = this_year - this_year % 100 + int(match[1])
        year -= 100 if year > this_year + 50 else 0
    try:
        # A leap second is a valid time, but not for `datetime`.
        found = datetime(year, month, day, hour, minute, 59 if second == 60 else second, tzinfo=UTC)
    except ValueError:
        return None
    return int(found.timestamp())
