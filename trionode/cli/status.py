"""`trionode status`: show the status of a running node."""

from __future__ import annotations

from typing import Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from master_shim.protocol import one_line

from ..errors import CommandFailed
from . import exits
from .fills import describe_fill
from .node_client import node_at, node_of
from .output import MAX_SHOWN_CHARS, StandardOutput, print_json
from .storage import SHORT, AsJson, Config, StoragePath, settings_of


def status(
    url: str | None = None, *, as_json: AsJson = False, storage_path: StoragePath = None, config: Config = None
) -> int:
    """Show the status of a running node.

    Parameters
    ----------
    url
        URL of the node, or its host:port; by default the node that runs on the storage folder of this machine.
    """
    if url is None:
        with node_of(settings_of(storage_path, config).storage_path) as node:
            report = node.call("GET", "/api/status")
    else:
        report = node_at(url).call("GET", "/api/status")
        if "versions" not in report:  # such as a node of the deployed system
            raise CommandFailed(f"what answers at {url} is no trionode", exits.NOT_RUNNING)
    if as_json:
        print_json(report)
    else:
        _print(report)
    return exits.OK


def _print(report: dict[str, Any]) -> None:
    console = StandardOutput()
    # Titles and reasons are untrusted: as `Text`, since rich interprets brackets in strings as styles.
    connected = Text("connected") if report["connected"] else Text("not connected", "red")
    facts = Table.grid(padding=(0, 2))
    master = Text.assemble(f"{report['main_server']}, ", connected, f", last polled {report['last_sync'] or 'never'}")
    for name, value in (
        ("node", _node(report)),
        ("master", master),
        ("sync", report["sync_status"]),
        ("storage", f"{decimal(report['storage_usage'])} in {report['versions']} versions"),
        ("downloads", f"{report['active_downloads']} active, {report['downloads_finished']} finished"),
        ("peers", report.get("peers_believed", "")),
        ("health", _health(report["health"])),
        ("bytes", _bytes(report)),
    ):
        shown = Text(one_line(value, MAX_SHOWN_CHARS)) if isinstance(value, str) else value
        facts.add_row(Text(name, "bold"), shown)
    if report.get("conflict"):
        facts.add_row(Text("conflict", "bold"), Text(one_line(report["conflict"], MAX_SHOWN_CHARS), "red"))
    console.print(facts)
    table = Table("meeting", "title", "state", "size", "files", "version")
    for meeting in report["active_meetings"]:
        # An older node reports no fills.
        fill = meeting.get("fill")
        more = describe_fill(fill) if fill else meeting["reason"]
        state = f"{meeting['state']}: {more}" if more else meeting["state"]
        digest = (meeting["version"] or "")[:SHORT]
        cells = (meeting["id"], meeting["title"], state, decimal(meeting["size"]), str(meeting["file_count"]), digest)
        table.add_row(*(Text(one_line(cell, MAX_SHOWN_CHARS)) for cell in cells))
    console.print(table if report["active_meetings"] else "no meeting is in progress")


def _node(report: dict[str, Any]) -> Text:
    text = f"{report['node_id']} at {report['node_ip']}:{report['node_port']}"
    # An older node reports no problem.
    problem = report.get("address_problem")
    shown = Text(one_line(text, MAX_SHOWN_CHARS))
    return shown.append(f", {one_line(problem, MAX_SHOWN_CHARS)}", "red") if problem else shown


def _bytes(report: dict[str, Any]) -> str:
    # An older node reports nothing about other nodes.
    sent, fetched = report.get("bytes_sent_to_peers", 0), report.get("bytes_fetched_from_peers", 0)
    return (
        f"{decimal(report['bytes_sent'])} sent to clients, {decimal(sent)} to other nodes; "
        f"{decimal(report['bytes_fetched'])} fetched from the master, {decimal(fetched)} from other nodes"
    )


def _health(health: dict[str, Any]) -> str:
    text = f"{decimal(health['scrubbed_bytes'])} scrubbed, {health['repaired_chunks']} chunks repaired"
    if health["unrepairable"]:
        text += f", {health['unrepairable']} versions could not be repaired and were removed"
    return text
