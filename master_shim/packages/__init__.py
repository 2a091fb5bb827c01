"""The packages of a master: where they are, which version each file is, and which meetings are in progress."""

KEEP_SECONDS = 300.0
"""How long the meetings of a folder that is suddenly empty or missing stay in progress: a share that was unmounted by
mistake is back within this time."""
