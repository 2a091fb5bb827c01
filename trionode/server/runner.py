"""`trionode serve`: Hypercorn's worker under Trio, with our sockets, our signals and our exit statuses."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.run import worker_serve
from hypercorn.utils import LifespanFailureError, wrap_app

from store import StorageTaken, StoreError

from ..app import create_app
from . import connection

if TYPE_CHECKING:
    from hypercorn.config import Sockets

    from ..app import NodeApp
    from ..config import Settings

GRACE_SECONDS = 4.0
"""What downloads that are going on get when the node is told to stop; with the rest it stays under 10 s."""

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_log = structlog.get_logger("trionode.server")


def serve(settings: Settings) -> int:
    """Run a node until SIGTERM or SIGINT; return the exit status: 0 in good order, 1 failed, 2 cannot start so."""
    config = _hypercorn_config(settings)
    try:
        sockets = config.create_sockets()
    except OSError as error:
        print(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}", file=sys.stderr)
        return EXIT_USAGE
    app = create_app(settings)
    connection.install()
    try:
        return trio.run(_serve, app, config, sockets)
    except LifespanFailureError:
        return _explain_start(app)
    except BaseExceptionGroup as group:
        if group.subgroup(LifespanFailureError) is None:
            raise
        return _explain_start(app)


def _explain_start(app: NodeApp) -> int:
    error = app.start_error
    print(f"cannot start: {error}", file=sys.stderr)
    # What an administrator can put right by another setting is a matter of usage; the rest is a failure.
    return EXIT_USAGE if isinstance(error, (StorageTaken, StoreError, OSError)) else EXIT_FAILED


def _hypercorn_config(settings: Settings) -> Config:
    config = Config()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    config.bind = [f"{host}:{settings.port}"]
    config.graceful_timeout = GRACE_SECONDS
    config.accesslog = None
    config.errorlog = "-"
    config.loglevel = "WARNING"
    return config


async def _serve(app: NodeApp, config: Config, sockets: Sockets) -> int:
    for listener in (*sockets.secure_sockets, *sockets.insecure_sockets):
        listener.listen(config.backlog)
        host, port = listener.getsockname()[:2]
        _log.info("listening", host=host, port=port, address=app.node.settings.node_address)

    async def told_to_stop() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_failed, app, nursery.cancel_scope)
                async for number in signals:
                    _log.info("stopping", signal=signal.Signals(number).name)
                    nursery.cancel_scope.cancel()
        # Off the master's list first, so that no tablet is sent here any more.
        await app.node.leave()

    await worker_serve(
        wrap_app(app, config.wsgi_max_body_size, mode="asgi"),
        config,
        sockets=sockets,
        shutdown_trigger=told_to_stop,
    )
    return EXIT_OK if app.node.failure is None else EXIT_FAILED


async def _cancel_when_failed(app: NodeApp, scope: trio.CancelScope) -> None:
    await app.node.failed.wait()
    scope.cancel()
