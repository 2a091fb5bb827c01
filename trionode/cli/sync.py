"""`trionode sync`: let the running node look at its master at once, and wait until its packages are current."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from master_shim.protocol import one_line

from ..errors import CommandFailed
from . import exits
from .fills import describe_fill
from .node_client import NodeGone, node_of
from .output import MAX_SHOWN_CHARS, StandardOutput, print_json
from .storage import SHORT, AsJson, Config, StoragePath, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .node_client import NodeClient

    Row = dict[str, Any]
    Show = Callable[[list[Row]], None]

POLL_SECONDS = 0.25
"""Interval at which the progress is read."""

MASTER_SECONDS = 30.0
"""Time limit of the node's poll of the master: each of its calls takes up to 5 s, and one may be in progress."""

LINE_SECONDS = 5.0
"""Interval at which the progress of a fill is printed where standard output is no terminal."""

BAR_COLUMNS = 20

Timeout = Annotated[float, Parameter(name="--timeout", help="Seconds to wait at most; 0: no limit.")]


def sync(
    meeting: str | None = None,
    *,
    timeout: Timeout = 0,
    as_json: AsJson = False,
    storage_path: StoragePath = None,
    config: Config = None,
) -> int:
    """Let the node on this machine look at its master now, and wait until its packages are current.

    Exits with status 1 at the time limit, if the master does not answer, and for a package that never fits.

    Parameters
    ----------
    meeting
        Id of the meeting to wait for; by default all that are in progress.
    """
    began = time.monotonic()
    ends_at = began + timeout if timeout > 0 else inf
    rows: list[Row] = []
    with node_of(settings_of(storage_path, config).storage_path) as node, _shown(as_json=as_json) as show:
        why = _poll(node, ends_at)
        while not why:
            found = _rows(node, meeting)
            why = _why_in_vain(meeting, found, before=rows)
            rows = found
            show(rows)
            if all(map(_is_current, rows)):
                break
            if not why and time.monotonic() >= ends_at:
                why = _why_late(rows, timeout)
            if not why:
                time.sleep(POLL_SECONDS)
    if as_json:
        seconds = round(time.monotonic() - began, 3)
        print_json({"current": not why, "why": why, "seconds": seconds, "meetings": rows})
    elif not (rows or why):
        print("no meeting is in progress")
    if why:
        raise CommandFailed(why, exits.FAILED)
    return exits.OK


def _poll(node: NodeClient, ends_at: float) -> str:
    """Let the node poll its master, and check every meeting. Return why the master was of no use, or ""."""
    seconds = min(MASTER_SECONDS, max(POLL_SECONDS, ends_at - time.monotonic()))
    try:
        error = node.call("POST", "/api/service/sync", seconds=seconds)["master_error"]
    except NodeGone:
        raise
    except CommandFailed:
        if time.monotonic() < ends_at:
            raise
        return "the master has not answered within the time limit"
    return f"the master does not answer: {one_line(error, MAX_SHOWN_CHARS)}" if error else ""


def _rows(node: NodeClient, meeting: str | None) -> list[Row]:
    rows: list[Row] = node.call("GET", "/api/status")["active_meetings"]
    return [row for row in rows if meeting in {None, row["id"]}]


def _is_current(row: Row) -> bool:
    return row["state"] == "current" and not row["checking"] and not row["reason"]


def _why_in_vain(meeting: str | None, rows: list[Row], before: list[Row]) -> str:
    """Return why it is of no use to wait, or "". Raises `CommandFailed` if no such meeting was ever in progress."""
    if meeting is not None and not rows:
        if not before:
            raise CommandFailed(f"no meeting {meeting!r} is in progress at the master", exits.USAGE)
        return f"the meeting {meeting!r} has ended"
    never = [row for row in rows if row["lacks_room"] and row["lacks_room"]["never_fits"]]
    return f"{never[0]['id']}: {one_line(never[0]['reason'], MAX_SHOWN_CHARS)}" if never else ""


def _why_late(rows: list[Row], timeout: float) -> str:
    late = [row for row in rows if not _is_current(row)]
    return f"not current after {timeout:g} s: " + "; ".join(f"{row['id']} ({describe(row)})" for row in late[:3])


def describe(row: Row) -> str:
    """Return the state of a meeting in one line."""
    if _is_current(row):
        return f"current, {decimal(row['size'])}, version {row['version'][:SHORT]}"
    if row["fill"] is not None:
        return describe_fill(row["fill"])
    if row["reason"]:
        return one_line(f"{row['reason']}; it is tried again", MAX_SHOWN_CHARS)
    return "being checked"


@contextmanager
def _shown(*, as_json: bool) -> Iterator[Show]:
    """Yield what shows the meetings: a live display on a terminal, else lines; nothing for JSON."""
    if as_json:
        yield lambda _: None
    elif sys.stdout.isatty():
        with Live(console=StandardOutput(), auto_refresh=False) as live:
            yield lambda rows: live.update(_table(rows), refresh=True)
    else:
        yield _Lines().show


def _table(rows: list[Row]) -> Table:
    table = Table.grid(padding=(0, 2))
    # Those that are waited for first: the display is cut at the height of the terminal.
    for row in sorted(rows, key=_is_current):
        fill = row["fill"]
        known = fill is not None and fill["size"]
        bar = ProgressBar(fill["size"], fill["filled"], width=BAR_COLUMNS) if known else Text()
        # Titles and reasons are untrusted: as `Text`, since rich interprets brackets in strings as styles.
        table.add_row(Text(one_line(row["id"], MAX_SHOWN_CHARS)), bar, Text(describe(row)))
    return table


class _Lines:
    """Prints a line when a meeting's state changes, and the progress of a fill every few seconds."""

    def __init__(self) -> None:
        self._printed: dict[str, tuple[str, float]] = {}

    def show(self, rows: list[Row]) -> None:
        """Print what has changed."""
        now = time.monotonic()
        for row in rows:
            text = describe(row)
            # The rate and the time left of a fill change all the time.
            kind = "fill" if row["fill"] is not None and not _is_current(row) else text
            before, at = self._printed.get(row["id"], ("", -inf))
            if kind != before or (kind == "fill" and now - at >= LINE_SECONDS):
                self._printed[row["id"]] = (kind, now)
                print(f"{one_line(row['id'], MAX_SHOWN_CHARS)}: {text}", flush=True)
