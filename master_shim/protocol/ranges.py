"""Byte ranges: parsing a Range header, and framing several ranges as one body. Pure.

A range is a non-empty `range` of offsets (RFC 9110, 14 and 15.3.7).
"""

from __future__ import annotations

import re

_HEADER = re.compile(r"[ \t]*bytes[ \t]*=(.*)", re.ASCII | re.IGNORECASE)
_SPEC = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)", re.ASCII)
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]", re.ASCII)

MAX_RANGES = 64
"""A request for more ranges is broken or hostile and gets the whole package (allowed by RFC 9110, 14.2).
Downloaders ask for one range per request, PDF viewers for a handful."""

GAP_BYTES = 128
"""Ranges this close are merged: sending the gap costs less than framing another part."""

_MAX_DIGITS = 19
"""A number with more significant digits is beyond the largest file (2**63 bytes)."""


def parse_ranges(header: str, size: int) -> tuple[range, ...] | None:
    """Return the requested ranges of `size` bytes, in request order; () if none can be satisfied.

    None if the header must be ignored: another unit, malformed, last byte before the first, or more than `MAX_RANGES`
    ranges. Ranges that overlap, touch or are at most `GAP_BYTES` apart are merged into the first of them, so no byte is
    sent twice.
    """
    match = _HEADER.fullmatch(header)
    if match is None or match[1].count(",") > 4 * MAX_RANGES:
        return None
    specs = [spec for item in match[1].split(",") if (spec := item.strip(" \t"))]
    if not 0 < len(specs) <= MAX_RANGES:
        return None
    found: list[range] = []
    for spec in specs:
        requested = _parse_spec(spec, size)
        if requested is None:
            return None
        if requested:
            found.append(requested)
    return tuple(found) if len(found) < 2 else _merge(found)


def _parse_spec(spec: str, size: int) -> range | None:
    """Return one range clipped to the file, empty if beyond its end; None if malformed."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        return None
    first, last, suffix = (None if text is None else text.lstrip("0") for text in match.groups())
    if suffix is not None:
        return range(size - min(_number(suffix), size), size)
    assert first is not None
    stop = size
    if match[2] and last is not None:
        if (len(last), last) < (len(first), first):
            return None  # the last byte before the first: invalid (RFC 9110, 14.1.1)
        stop = min(_number(last) + 1, size)
    return range(_number(first), stop)


def _number(digits: str) -> int:
    """Parse digits without leading zeros. Excess digits are cut, so that ten thousand of them cost nothing."""
    return int(digits[: _MAX_DIGITS + 1] or "0")


def _merge(found: list[range]) -> tuple[range, ...]:
    merged: list[tuple[int, range]] = []  # with the index of the first in the request
    for index, requested in sorted(enumerate(found), key=lambda item: item[1].start):
        if merged and requested.start <= merged[-1][1].stop + GAP_BYTES:
            first, last = merged[-1]
            merged[-1] = (min(first, index), range(last.start, max(last.stop, requested.stop)))
        else:
            merged.append((index, requested))
    return tuple(requested for _, requested in sorted(merged, key=lambda item: item[0]))


def content_range(part: range, size: int) -> str:
    """Return the Content-Range value for a range of `size` bytes."""
    return f"bytes {part.start}-{part.stop - 1}/{size}"


def boundary_of(etag: str) -> str:
    """Return the multipart boundary of a version, made from its digest, which its own bytes cannot contain."""
    return "part-" + _NOT_ALPHANUMERIC.sub("", etag)[:48]


def multipart(ranges: tuple[range, ...], size: int, media_type: str, boundary: str) -> tuple[bytes | range, ...]:
    """Return the pieces of a multipart/byteranges body: framing as bytes, alternating with ranges of the file."""
    pieces: list[bytes | range] = []
    for part in ranges:
        line_end = "\r\n" if pieces else ""  # part of the delimiter after the previous part
        fields = f"Content-Type: {media_type}\r\nContent-Range: {content_range(part, size)}\r\n"
        pieces += (f"{line_end}--{boundary}\r\n{fields}\r\n".encode("ascii"), part)
    return (*pieces, f"\r\n--{boundary}--\r\n".encode("ascii"))
