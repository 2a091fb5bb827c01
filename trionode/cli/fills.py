"""Fills in progress, in words: from the report of `/api/status`."""

from __future__ import annotations

from typing import Any

from rich.filesize import decimal


def describe_fill(fill: dict[str, Any]) -> str:
    """Return source, progress, rate and time left of a fill as one line."""
    filled, size = fill["filled"], fill["size"]
    progress = f"{decimal(filled)} of {decimal(size)} ({100 * filled // size} %)" if size else decimal(filled)
    left = "" if fill["seconds_left"] is None else f", {_duration(fill['seconds_left'])} left"
    return f"{progress} from {fill['source']}, {decimal(fill['bytes_per_second'])}/s{left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
