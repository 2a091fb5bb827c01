"""Hypercorn: our runner, its hooks, and the bridge that makes the node work on an asyncio server."""

from __future__ import annotations

from ..config import load_settings
from ..logs import configure_logs
from . import connection


def prepare_process(library: str) -> None:
    """Prepare a process whose server is not ours for the node, once: its logs, and on Trio its connections."""
    configure_logs(load_settings().log_level)
    if library == "trio":
        connection.install()
