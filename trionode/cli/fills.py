"""Fills in progress, in words: from the report of `/api/status`."""

from __future__ import annotations

from typing import Any

from rich.filesize import decimal


def describe_fill(fill: dict[str, Any]) -> str:
    """Return progress, source, rate and time left of a fill as one line, and the bytes of each source if several."""
    filled, size = fill["filled"], fill["size"]
    progress = f"{decimal(filled)} of {decimal(size)} ({100 * filled // size} %)" if size else decimal(filled)
    left = "" if fill["seconds_left"] is None else f", {_duration(fill['seconds_left'])} left"
    fetched = fill["fetched"]
    parts = ", ".join(f"{decimal(count)} from {source}" for source, count in fetched.items())
    each = f"; fetched {parts}" if len(fetched) > 1 else ""
    return f"{progress} from {fill['source']}, {decimal(fill['bytes_per_second'])}/s{left}{each}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
