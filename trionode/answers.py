"""The one table that turns errors into answers, and what every answer of a node says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from store import InvalidDigest, NeverFits, NoSpace, StoreError

from . import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

ANSWERS: dict[type[Exception], tuple[int, str | None]] = {
    errors.InvalidRequest: (400, None),
    InvalidDigest: (400, None),
    errors.KeyRequired: (403, None),
    errors.MeetingUnknown: (404, "Meeting package not found"),
    errors.VersionGone: (404, None),
    errors.MethodRefused: (405, None),
    errors.OriginError: (502, None),
    errors.AtCapacity: (503, None),
    errors.FillFailed: (503, None),
    errors.NodeStopped: (503, None),
    errors.OriginUnreachable: (503, None),
    NeverFits: (507, None),
    NoSpace: (503, None),
    errors.NodeError: (500, "Internal server error"),
    StoreError: (500, "Internal server error"),
    Exception: (500, "Internal server error"),
}
"""Status and detail (None: the error's own words) for every error; the nearest base class decides."""

RETRY_SECONDS = 3
"""What `Retry-After` says: by then a slot is free, the master was asked again, or another node is better."""

CORS: Mapping[str, str] = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Expose-Headers": (
        "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Repr-Digest, Retry-After"
    ),
}

CORS_FIELDS = [(name.lower().encode(), value.encode()) for name, value in CORS.items()]
"""The same as ASGI wants them."""

_log = structlog.get_logger("trionode.app")


def answer_to(error: Exception, path: str) -> tuple[int, str, dict[str, str]]:
    """Return status, detail and header fields of the answer to a request for `path` that met `error`.

    A fault of the program goes to the log whole, and to the client not at all.
    """
    status, detail = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    # What a node says of itself holds for now; and a cache may keep a 404 that says nothing else (RFC 9111, 4.2.2).
    fields = {"Cache-Control": "no-store"}
    if status == 500 and not isinstance(error, (errors.NodeError, StoreError)):
        _log.error("a request met a fault", path=path, exc_info=error)
    elif status == 500:
        _log.error("a request failed", path=path, why=str(error), kind=type(error).__name__)
    elif status == 503:
        fields["Retry-After"] = str(RETRY_SECONDS)
    elif isinstance(error, errors.MethodRefused):
        fields["Allow"] = ", ".join(error.allowed)
    return status, detail or str(error), fields
