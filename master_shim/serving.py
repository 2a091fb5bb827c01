"""Serving `MasterShim` until SIGTERM or SIGINT, with the node's server: Hypercorn on Trio, with its work-arounds."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trionode.server.hypercorn import ConnectionLimits, install
from trionode.server.open_files import raise_open_files
from trionode.server.runner import Shutdown, cancel_end_of_process, handle_signals, hypercorn_config, serve_app

from .errors import ShimError

if TYPE_CHECKING:
    import socket

    from .app import MasterShim

_log = logging.getLogger("master_shim")

GRACE_SECONDS = 3.0
"""Time for downloads to finish after a signal; connections that are still open then are closed."""


def run(shim: MasterShim, listeners: list[socket.socket]) -> None:
    """Serve until SIGTERM or SIGINT, then return within `GRACE_SECONDS` and a little."""
    raise_open_files()
    limits = ConnectionLimits()
    install(limits)
    try:
        trio.run(_serve, shim, listeners, limits)
    finally:
        cancel_end_of_process()


async def _serve(shim: MasterShim, listeners: list[socket.socket], limits: ConnectionLimits) -> None:
    shutdown = Shutdown(lambda: GRACE_SECONDS)

    async def until_over() -> float:
        await shutdown.wait_requested()
        limits.min_data_rate.begin_ending()
        return GRACE_SECONDS

    async with trio.open_nursery() as nursery:
        await nursery.start(handle_signals, shutdown)
        nursery.start_soon(_read_packages, shim)
        await serve_app(shim, hypercorn_config(), listeners, shutdown, until_over)
        nursery.cancel_scope.cancel()


async def _read_packages(shim: MasterShim) -> None:
    """Hash the packages before the first request, so that the first tablet does not wait for it."""
    try:
        await shim.snapshot()
    except ShimError as error:
        _log.warning("%s", error)
    except Exception:  # noqa: BLE001 - a failure to read in advance must not end the master
        _log.exception("the packages could not be read in advance")
