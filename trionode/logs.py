"""Where log lines go: to standard error, one line each, the libraries' with ours."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

_lowest = logging.INFO


def configure_logs(level: str) -> None:
    """Send structlog's and the standard library's log lines of `level` (its name) and above to standard error."""
    logging.basicConfig(format="%(asctime)s [%(levelname)s] %(name)s: %(message)s")
    # Hypercorn writes its own lines; ours would say them a second time.
    for name in ("hypercorn.error", "hypercorn.access"):
        logging.getLogger(name).propagate = False
    set_level(level)
    structlog.configure(
        processors=[
            _drop_below,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                # The other formatter draws pictures of all variables, and imports what that needs at the first error:
                # on a disk that fails, that error would be its last.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def set_level(level: str) -> None:
    """Write lines of `level` (its name) and above from now on.

    Not structlog's own way: its loggers keep the level that was set when they were first used.
    """
    global _lowest
    _lowest = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(max(_lowest, logging.WARNING))
    logging.getLogger("store").setLevel(_lowest)


def _drop_below(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    number = (
        logging.ERROR if method == "exception" else logging.getLevelNamesMapping().get(method.upper(), logging.INFO)
    )
    if number < _lowest:
        raise structlog.DropEvent
    return event
