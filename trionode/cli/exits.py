"""The exit statuses of all commands."""

from __future__ import annotations

OK = 0
FAILED = 1
"""The command failed, or found damage."""
USAGE = 2
"""The request is not valid, or names something that does not exist."""
NOT_RUNNING = 3
"""No node answers."""
REPAIRED = 4
"""`verify --repair` found damage and has repaired all of it."""
