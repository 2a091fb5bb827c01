"""What to answer to a request for a package: a pure function of method, headers, size and digest (RFC 9110).

Imports nothing that does I/O. Quart's own range code is not used: `bytes=-500` answers 500 there, a 416 lacks
Content-Range and a 200 lacks Accept-Ranges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:

    class Fields(Protocol):
        """A request's header fields, found by name whatever their case."""

        def get(self, name: str, /) -> str | None:
            """Return a field's value, or None."""
            ...


Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, the slice `[start, stop)` of the package that is its body (in bytes), and its range headers."""

    status: int
    start: int
    stop: int
    headers: Headers


def plan_answer(method: str, request: Fields, size: int, digest: str) -> Answer:
    """Decide between 200, 206, 304, 412 and 416, in the order of RFC 9110, section 13.2.2.

    `size` is the package's, in
    bytes, and `digest` the version, which is its strong ETag. Range is defined for GET alone (section 14.2).
    """
    etag = f'"{digest}"'
    base: Headers = (("ETag", etag), ("Accept-Ranges", "bytes"))
    wanted = request.get("If-Match")
    if wanted is not None and not _matches(wanted, etag, weak=False):
        return Answer(412, 0, 0, base)
    known = request.get("If-None-Match")
    if known is not None and _matches(known, etag, weak=True):
        return Answer(304, 0, 0, base)
    ranges = request.get("Range") if method == "GET" else None
    if ranges is not None and (request.get("If-Range") or etag).strip() == etag:
        span = parse_range(ranges, size)
        if span is UNSATISFIABLE:
            return Answer(416, 0, 0, (*base, ("Content-Range", f"bytes */{size}")))
        if span is not None:
            start, stop = span
            partial = (
                ("Content-Range", f"bytes {start}-{stop - 1}/{size}"),
                ("Content-Length", str(stop - start)),
            )
            return Answer(206, start, stop, (*base, *partial))
    return Answer(200, 0, size, (*base, ("Content-Length", str(size))))


UNSATISFIABLE = (-1, -1)
"""What `parse_range` returns for a range that lies wholly outside the package."""

_SINGLE = re.compile(r"bytes[ \t]*=[ \t]*(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))[ \t]*", re.ASCII | re.IGNORECASE)


def parse_range(value: str, size: int) -> tuple[int, int] | None:
    """Return the slice `[start, stop)` a Range header asks for, `UNSATISFIABLE`, or None to send the whole.

    None for what the field allows a server to ignore: other units, several ranges, nonsense.
    """
    match = _SINGLE.fullmatch(value.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        length = min(int(suffix), size)
        return (size - length, size) if length else UNSATISFIABLE
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        return UNSATISFIABLE
    return start, min(int(last) + 1, size) if last else size


_ETAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def _matches(field: str, etag: str, *, weak: bool) -> bool:
    """Tell whether a list of entity tags names `etag`; a weak tag counts only where `weak` comparison is meant."""
    if field.strip() == "*":
        return True
    return any(tag == etag and (weak or not mark) for mark, tag in _ETAG.findall(field))
