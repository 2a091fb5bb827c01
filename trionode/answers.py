"""The mapping of errors to HTTP answers."""

from __future__ import annotations

import structlog

from store import InvalidDigest, NeverFits, NoSpace, StoreError

from . import errors

ANSWERS: dict[type[Exception], tuple[int, str | None]] = {
    InvalidDigest: (400, None),
    errors.SettingError: (400, None),
    errors.KeyRequired: (403, None),
    errors.PeersOff: (403, None),
    errors.MeetingUnknown: (404, "Meeting package not found"),
    errors.VersionGone: (404, None),
    errors.MethodRefused: (405, None),
    errors.NotBehind: (409, None),
    errors.OriginError: (502, None),
    errors.AtCapacity: (503, None),
    errors.FillFailed: (503, None),
    errors.NodeStopped: (503, None),
    errors.OriginUnreachable: (503, None),
    errors.PeersBusy: (503, None),
    NeverFits: (507, None),
    NoSpace: (503, None),
    errors.NodeError: (500, "Internal server error"),
    StoreError: (500, "Internal server error"),
    OSError: (503, "The storage folder cannot be used at the moment; the node's log says why"),
    Exception: (500, "Internal server error"),
}
"""Status and detail (None: the error's own text) of every error; the nearest base class decides."""

RETRY_SECONDS = 3
"""Value of `Retry-After`: by then a permit may be free, or the master has been polled again."""

_log = structlog.get_logger("trionode.app")


def answer_to(error: Exception, path: str) -> tuple[int, str, dict[str, str]]:
    """Return status, detail and header fields of the answer to a request for `path` that raised `error`.

    A bug is logged with its traceback; the answer does not describe it.
    """
    status, detail = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    # Errors are valid for the moment only, and without this field a cache may keep a 404 (RFC 9111, 4.2.2).
    fields = {"Cache-Control": "no-store"}
    ours = isinstance(error, (errors.NodeError, StoreError))
    if (status == 500 and ours) or (isinstance(error, OSError) and not ours):
        _log.error("a request failed", path=path, why=str(error), kind=type(error).__name__)
    elif status == 500:
        _log.error("unhandled error in a request", path=path, exc_info=error)
    if status == 503:
        fields["Retry-After"] = str(RETRY_SECONDS)
    elif isinstance(error, errors.MethodRefused):
        fields["Allow"] = ", ".join(error.allowed)
    return status, detail or str(error), fields
