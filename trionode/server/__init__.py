"""Hypercorn: our runner, its hooks, and the bridge that makes the node work on an asyncio server."""

from __future__ import annotations

from ..config import load_settings
from ..logs import configure_logs
from . import connection
from .files import raise_open_files


def prepare_process(library: str) -> None:
    """Prepare a process whose server is not ours for the node, once: its logs, its files, on Trio its connections."""
    settings = load_settings()
    configure_logs(settings.log_level)
    raise_open_files()
    if library == "trio":
        connection.install()
        connection.limits.take(settings)
