"""Fetching and printing the status of a running master, for `master-shim status`.

By the standard library's HTTP client, which is imported in a tenth of the time of httpx.
"""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from .protocol import one_line
from .registry import LATE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

CALL_SECONDS = 5.0
"""Time limit of the call; a master answers within milliseconds."""
MAX_ANSWER_BYTES = 64 << 20
"""Size limit of the answer; that of a thousand nodes and meetings is a hundredth of it."""
SHORT = 12
"""Digits of a digest that are printed."""


class NoMaster(Exception):
    """No master with the shim answers at the URL. The text says what does."""


def fetch(url: str, reason_of: Callable[[Exception], str] = str) -> dict[str, Any]:
    """Return the status of the master at a URL, or at `host:port` by HTTP. Raises `NoMaster`.

    `reason_of` says why a connection failed.
    """
    absent = f"no master answers at {url}"
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        connection = kinds[parts.scheme](parts.hostname or "", parts.port, timeout=CALL_SECONDS)
    except (ValueError, KeyError, http.client.HTTPException) as error:
        raise NoMaster(f"{absent} (not host:port, and not an http or https URL)") from error
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/api/v1/nodes/status")
        with connection.getresponse() as answer:
            status, body = answer.status, answer.read(MAX_ANSWER_BYTES)
    except (OSError, ValueError) as error:
        raise NoMaster(f"{absent} ({reason_of(error)})") from error
    except http.client.HTTPException as error:  # its text may be any bytes
        raise NoMaster(f"{absent} (but a program that does not speak HTTP)") from error
    finally:
        connection.close()
    try:
        report = json.loads(body)
    except ValueError:
        report = None
    if status != http.client.OK or not isinstance(report, dict) or "nodes_lost" not in report:
        raise NoMaster(f"{absent} (but another program, or a master without the shim; HTTP status {status})")
    return report


def show(console: Console, url: str, report: dict[str, Any]) -> None:
    """Print a status for people."""
    downloads = report["downloads"]
    offered = sum(node["offered"] for node in report["nodes"])
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("master", f"{url}, up for {_duration(report['uptime'])}"),
        (
            "nodes",
            f"{len(report['nodes'])}, {offered} of them get clients; {report['nodes_lost']} lost since the start",
        ),
        ("downloads", f"{downloads['redirected']} redirected, {downloads['offered']} offered to nodes"),
        ("itself", f"{downloads['sent_here']} downloads for which no node was fit, {downloads['sending']} active"),
        ("bytes", f"{decimal(downloads['bytes_sent'])} sent by the master"),
    ):
        facts.add_row(Text(name, "bold"), _text(value))
    console.print(facts)
    # Folded: with half of an id or address nobody can do anything.
    whole = [Column(name, overflow="fold") for name in ("node", "address")]
    nodes = Table(*whole, "state", "downloads", "packages")
    for node in report["nodes"]:
        limit = f" of {node['max_downloads']}" if node["max_downloads"] else ""
        state = node["state"] if node["offered"] or node["state"] != "online" else "gets no clients"
        if node["silent"] > LATE_SECONDS:
            state += f", silent for {_duration(node['silent'])}"
        packages = f"{node['packages']}, fetching {node['filling']}" if node["filling"] else f"{node['packages']}"
        active = f"{node['active_downloads']}{limit}"
        nodes.add_row(*map(_text, (node["node_id"], node["address"], state, active, packages)))
    console.print(nodes if report["nodes"] else "no node is registered")
    for conflict in {node["conflict"] for node in report["nodes"]} - {""}:
        console.print(_text(conflict), style="red")
    if report["meetings"] is None:
        console.print(_text(f"the meetings cannot be listed: {report['reason']}"))
        return
    meetings = Table("meeting", "title", "version", "size", "nodes")
    for meeting in report["meetings"]:
        digest = meeting["version"]
        version = digest[:SHORT] if digest else meeting["reason"] or "not read yet"
        size = "" if meeting["size"] is None else decimal(meeting["size"])
        have = f"{meeting['nodes']}, {meeting['filling']} fetching" if meeting["filling"] else f"{meeting['nodes']}"
        meetings.add_row(*map(_text, (meeting["id"], meeting["title"], version, size, have)))
    console.print(meetings if report["meetings"] else "no meeting is in progress")
    fetches = Table("meeting", Column("who fetches from whom", overflow="fold"))
    for meeting in report["meetings"]:
        sources = {entry["node_id"]: entry["source"] for entry in meeting.get("fetching", ())}
        for line in chains(sources):
            fetches.add_row(_text(meeting["id"]), Text(" <- ".join(map(one_line, line))))
    if fetches.row_count:
        console.print(fetches)


def chains(sources: Mapping[str, str]) -> list[list[str]]:
    """Return who fetches from whom: each line is a node, its source, the source's source, and so on.

    `sources` has for each node its source, "" for the master. Each node is followed by its source once: a line ends at
    the master, at a node that fetches from none, or at one that an earlier line or the same has.
    """
    lines: list[list[str]] = []
    shown: set[str] = set()
    asked = set(sources.values())
    # Those that nobody fetches from begin the lines. The others come last: all that is left of them are circles.
    for name in sorted(sources, key=lambda name: name in asked):
        if name in shown:
            continue
        line = [name]
        while line[-1] in sources and line[-1] not in shown:
            shown.add(line[-1])
            line.append(sources[line[-1]])
        lines.append([name or "master" for name in line])
    return lines


def _text(value: str) -> Text:
    """Return untrusted text for a table: as `Text`, since rich interprets brackets in strings as styles."""
    return Text(one_line(value))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
