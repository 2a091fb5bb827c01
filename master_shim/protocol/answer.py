"""The answer to a GET or HEAD of a package: status, headers, and the pieces of its body. Pure."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, NamedTuple

from .conditions import check_conditions, range_applies
from .ranges import boundary_of, content_range, multipart, parse_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .target import Header

_REFUSALS = {
    412: b'{"detail":"The package is not the requested version"}',
    416: b'{"detail":"The package has none of the requested bytes"}',
}


class PackageAnswer(NamedTuple):
    """An answer. `pieces` is the body: bytes as they are, and ranges of the package; () for HEAD and 304.

    The headers include Content-Length; not CORS, Cache-Control (except for 412 and 416) or Content-Disposition.
    """

    status: int
    headers: tuple[Header, ...]
    pieces: tuple[bytes | range, ...]

    @property
    def small_body(self) -> bytes | None:
        """The body if no part of it comes from the package, else None."""
        framing = [piece for piece in self.pieces if isinstance(piece, bytes)]
        return b"".join(framing) if len(framing) == len(self.pieces) else None


def plan_answer(
    method: str,
    fields: Mapping[str, str],
    size: int,
    etag: str,
    media_type: str,
    *,
    modified: int | None = None,
    now: float = 0.0,
) -> PackageAnswer:
    """Decide between 200, 206, 304, 412 and 416, in the order of RFC 9110, 13.2.2.

    `fields` are the request's header fields by lower-case name. `etag` is strong and quoted. `modified` (Unix seconds)
    is sent as Last-Modified; without it no date is sent, and dates in the request are ignored.
    """
    headers: tuple[Header, ...] = ((b"etag", etag.encode()), (b"accept-ranges", b"bytes"))
    if modified is not None:
        headers = (*headers, (b"last-modified", formatdate(modified, usegmt=True).encode()))
    status = check_conditions(fields, etag, modified=modified, now=now) or 200
    if status == 304:
        # Content-Length would describe the 200 answer (RFC 9110, 15.4.5); it may be left out.
        return PackageAnswer(304, headers, ())
    ranges = None
    # Range is defined for GET only (RFC 9110, 14.2).
    if status == 200 and method == "GET" and "range" in fields and range_applies(fields.get("if-range"), etag):
        ranges = parse_ranges(fields["range"], size)
    pieces: tuple[bytes | range, ...]
    if ranges is None:
        pieces = (range(size),) if size else ()
    elif len(ranges) > 1:
        boundary = boundary_of(etag)
        status, pieces = 206, multipart(ranges, size, media_type, boundary)
        media_type = f"multipart/byteranges; boundary={boundary}"
    elif ranges:
        status, pieces = 206, ranges
        headers = (*headers, (b"content-range", content_range(ranges[0], size).encode()))
    else:
        status, pieces = 416, ()
        headers = (*headers, (b"content-range", b"bytes */%d" % size))
    if status in _REFUSALS:
        pieces, media_type = (_REFUSALS[status],), "application/json"
        headers = (*headers, (b"cache-control", b"no-store"))
    length = b"%d" % sum(map(len, pieces))
    headers = (*headers, (b"content-type", media_type.encode()), (b"content-length", length))
    return PackageAnswer(status, headers, pieces if method == "GET" else ())
