"""Byte ranges: what a Range header asks for, and how several ranges go into one body. Pure.

A range is a `range` of offsets; none is empty. RFC 9110, 14 and 15.3.7.
"""

from __future__ import annotations

import re

_RANGES = re.compile(r"[ \t]*bytes[ \t]*=(.*)", re.ASCII | re.IGNORECASE)
_RANGE = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)", re.ASCII)
_NO_TOKEN = re.compile(r"[^A-Za-z0-9]", re.ASCII)

MAX_RANGES = 64
"""Who asks for more in one request is broken or means harm, and gets the whole (RFC 9110, 14.2 allows that).
Downloaders ask for one range in each request; PDF viewers for a handful."""

GAP_BYTES = 128
"""Ranges no further apart are sent as one: the gap costs less than framing another part does."""

_MAX_DIGITS = 19
"""Any number of more significant digits lies beyond the largest file (2**63 bytes)."""


def parse_ranges(header: str, size: int) -> tuple[range, ...] | None:
    """Return what of `size` bytes a Range header asks for, in its order; () when there is nothing of it.

    None when the header is to be ignored: another unit, not well-formed, backwards, or more than `MAX_RANGES` ranges.
    Ranges that overlap, touch or nearly touch are one, in the place of the first of them: no byte is sent twice.
    """
    match = _RANGES.fullmatch(header)
    if match is None or match[1].count(",") > 4 * MAX_RANGES:
        return None
    specs = [spec for item in match[1].split(",") if (spec := item.strip(" \t"))]
    if not 0 < len(specs) <= MAX_RANGES:
        return None
    found: list[range] = []
    for spec in specs:
        asked = _parse_one(spec, size)
        if asked is None:
            return None
        if asked:
            found.append(asked)
    return _join(found)


def _parse_one(spec: str, size: int) -> range | None:
    """Return one range cut to the file, empty if nothing is left; None if it is not well-formed."""
    match = _RANGE.fullmatch(spec)
    if match is None:
        return None
    first, last, suffix = (None if text is None else text.lstrip("0") for text in match.groups())
    if suffix is not None:
        return range(size - min(_number(suffix), size), size)
    assert first is not None
    stop = size
    if match[2] and last is not None:
        if (len(last), last) < (len(first), first):
            return None  # backwards: no range at all (RFC 9110, 14.1.1)
        stop = min(_number(last) + 1, size)
    return range(_number(first), stop)


def _number(digits: str) -> int:
    """Parse digits without leading zeros; one beyond any file is cut, so that ten thousand digits cost nothing."""
    return int(digits[: _MAX_DIGITS + 1] or "0")


def _join(found: list[range]) -> tuple[range, ...]:
    joined: list[tuple[int, range]] = []  # with the place of the first in the request
    for place, asked in sorted(enumerate(found), key=lambda item: item[1].start):
        if joined and asked.start <= joined[-1][1].stop + GAP_BYTES:
            before, last = joined[-1]
            joined[-1] = (min(before, place), range(last.start, max(last.stop, asked.stop)))
        else:
            joined.append((place, asked))
    return tuple(asked for _, asked in sorted(joined, key=lambda item: item[0]))


def content_range(sent: range, size: int) -> str:
    """Return the Content-Range value for a range of `size` bytes."""
    return f"bytes {sent.start}-{sent.stop - 1}/{size}"


def boundary_of(etag: str) -> str:
    """Return what separates the parts of a version's multipart bodies.

    It comes from the version's digest, which the bytes of the version cannot contain.
    """
    return "part-" + _NO_TOKEN.sub("", etag)[:48]


def multipart(ranges: tuple[range, ...], size: int, media_type: str, boundary: str) -> tuple[bytes | range, ...]:
    """Return the pieces of a multipart/byteranges body: framing as bytes, and between it the ranges of the file."""
    pieces: list[bytes | range] = []
    for part in ranges:
        line_end = "\r\n" if pieces else ""  # it belongs to the boundary that follows a part
        fields = f"Content-Type: {media_type}\r\nContent-Range: {content_range(part, size)}\r\n"
        pieces += (f"{line_end}--{boundary}\r\n{fields}\r\n".encode("ascii"), part)
    return (*pieces, f"\r\n--{boundary}--\r\n".encode("ascii"))
