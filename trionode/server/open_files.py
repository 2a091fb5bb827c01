"""The limit of open files: every connection counts as one."""

from __future__ import annotations

import resource

import structlog

_log = structlog.get_logger("trionode.server")


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard limit, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            _log.warning("the limit of open files cannot be raised", limit=soft, why=str(error))
            return soft
    return hard
