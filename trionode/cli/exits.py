"""The exit statuses of all commands."""

from __future__ import annotations

import signal

OK = 0
FAILED = 1
"""The command failed, or found damage."""
USAGE = 2
"""The request is not valid, or names something that does not exist."""
NOT_RUNNING = 3
"""No node answers."""
UNREAD = 128 + signal.SIGPIPE
"""Whoever read the output has left, as `head` does; the status that a shell reports for other programs then."""
REPAIRED = 4
"""`verify --repair` found damage and has repaired all of it."""
