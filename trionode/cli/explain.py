"""The mapping of errors of commands to a message and an exit status."""

from __future__ import annotations

from store import NoSpace, StoreError

from ..errors import CommandFailed, SettingError
from . import exits


def explain(error: Exception) -> tuple[str, int]:
    """Return the message and the exit status. Raises `error` itself if it is a bug."""
    match error:
        case SettingError():
            return str(error), exits.USAGE
        case CommandFailed():
            return error.reason, error.status
        case NoSpace():
            return f"{error}; make room with trionode gc or trionode evict", exits.FAILED
        case StoreError():
            return str(error), exits.FAILED
        case PermissionError():
            return f"{error.filename or 'the storage'}: {error.strerror}; run this as the node's user", exits.FAILED
        case _:
            raise error
