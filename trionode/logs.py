"""Logging to standard error, for the libraries' loggers and ours.

The level is kept in the standard library's logger `trionode`, so it can change while the node runs.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any, TextIO

_level = logging.getLogger("trionode")
_LEVELS = logging.getLevelNamesMapping() | {"EXCEPTION": logging.ERROR}


class _StandardError:
    """Standard error as it is for the standard library's logging: a line that cannot be written is lost.

    Its reader has left, or its disk is full: the code that logs must not fail for that.
    """

    def write(self, text: str) -> None:
        """Write some text."""
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush what was written."""
        with suppress(OSError):
            sys.stderr.flush()


def configure_logs(level: str) -> None:
    """Write log lines of `level` (its name) and above to standard error."""
    if sys.stderr is None:  # it was closed
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] %(name)s: %(message)s"))
    # Hypercorn writes its own lines; the root logger would write them a second time.
    handler.addFilter(lambda record: not record.name.startswith("hypercorn."))
    logging.basicConfig(handlers=[handler])
    set_level(level)
    structlog.configure(
        processors=[
            _drop_below_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                # The default formatter prints all variables, and imports modules for it at the first error: with a
                # failing disk that import fails, too.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _StandardError())),
        cache_logger_on_first_use=True,
    )


def set_level(level: str) -> None:
    """Write lines of `level` (its name) and above from now on.

    Not by `structlog.configure`: its loggers keep the level that was set when they were first used.
    """
    number = _LEVELS[level.upper()]
    logging.getLogger().setLevel(max(number, logging.WARNING))
    for name in ("trionode", "master_shim", "store"):
        logging.getLogger(name).setLevel(number)


def _drop_below_level(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if not _level.isEnabledFor(_LEVELS.get(method.upper(), logging.INFO)):
        raise structlog.DropEvent
    return event
