"""`trionode ls`: list the contents of a storage folder."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from master_shim.protocol import one_line
from store import age_of

from . import exits
from .output import StandardOutput, print_json
from .storage import SHORT, AsJson, Config, StoragePath, ask_node, open_storage, settings_of

if TYPE_CHECKING:
    from store import Digest, Ref, Store

PIPE_COLUMNS = 200


def ls(*, storage_path: StoragePath = None, config: Config = None, as_json: AsJson = False) -> int:
    """List the stored versions, the meetings that have them, and their use."""
    settings = settings_of(storage_path, config)
    node = ask_node(settings)
    with open_storage(settings) as store:
        usage = store.usage()
        report = {
            "storage_path": str(settings.storage_path),
            "node": None if node is None else node["node_id"],
            "stored": usage.stored,
            "filling": usage.filling,
            "free": usage.free,
            "limit": usage.limit,
            "versions": _versions(store, node),
        }
    if as_json:
        print_json(report)
    else:
        _print(report)
    return exits.OK


def _versions(store: Store, node: dict[str, Any] | None) -> list[dict[str, object]]:
    """Return a row for each version, the last used first."""
    refs: dict[Digest, list[Ref]] = {}
    for ref in sorted(store.refs(), key=lambda ref: ref.meeting_id):
        refs.setdefault(ref.digest, []).append(ref)
    shared = shared_bytes(store)
    sending = None if node is None else node.get("sending")
    rows = []
    for version in sorted(store.versions(), key=lambda v: (-v.last_used, v.digest)):
        mine = refs.get(version.digest, [])
        rows.append(
            {
                "digest": version.digest,
                "size": version.size,
                "shared": shared.get(version.digest, 0),
                "last_used": version.last_used,
                "pinned": any(ref.pinned for ref in mine),
                # None: no running node reports it.
                "sending": None if sending is None else sending.get(version.digest, 0),
                "meetings": [
                    {
                        "id": ref.meeting_id,
                        "title": ref.title,
                        "in_progress": ref.in_progress,
                        "pinned": ref.pinned,
                        "ended_at": ref.ended_at or None,
                    }
                    for ref in mine
                ],
            }
        )
    return rows


def shared_bytes(store: Store) -> dict[Digest, int]:
    """Return for each version how many of its bytes are in chunks that another version has, too."""
    chunks: dict[Digest, dict[Digest, int]] = {}
    for version in store.versions():
        mine: Counter[Digest] = Counter()
        try:
            manifest = store.manifest(version.digest)
        except LookupError:  # evicted by the node just now
            continue
        for chunk in manifest.chunks:
            mine[chunk.digest] += chunk.size
        chunks[version.digest] = mine
    holders = Counter(digest for mine in chunks.values() for digest in mine)
    return {
        version: sum(size for digest, size in mine.items() if holders[digest] > 1) for version, mine in chunks.items()
    }


def _print(report: dict[str, Any]) -> None:
    console = StandardOutput()
    if not console.is_terminal:  # a file or a pipe has no width
        console = StandardOutput(width=PIPE_COLUMNS)
    if report["versions"]:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("version", "meeting", "title", "state", "size", "shared", "last served", "pinned", "being sent"):
            table.add_column(name, no_wrap=name not in {"meeting", "title"}, overflow="fold")
        for row in report["versions"]:
            table.add_row(*_cells(row))
        console.print(table)
    limit = f" of {decimal(report['limit'])}" if report["limit"] else ""
    filling = f", {decimal(report['filling'])} being filled" if report["filling"] else ""
    console.print(
        f"{len(report['versions'])} versions, {decimal(report['stored'])}{limit}{filling}; "
        f"{decimal(report['free'])} free; "
        + ("no node is running" if report["node"] is None else f"node {report['node']} is running"),
        highlight=False,
        markup=False,
    )


def _cells(row: dict[str, Any]) -> list[Text]:
    meetings = row["meetings"]
    sending = row["sending"]
    cells = [
        row["digest"][:SHORT],
        "\n".join(one_line(meeting["id"]) for meeting in meetings),
        "\n".join(one_line(meeting["title"]) for meeting in meetings),
        "\n".join(_state(meeting) for meeting in meetings) or "left",
        decimal(row["size"]),
        decimal(row["shared"]) if row["shared"] else "",
        _ago(row["last_used"]),
        "yes" if row["pinned"] else "",
        "?" if sending is None else str(sending or ""),
    ]
    # As `Text`, since rich interprets brackets in strings as styles.
    return [Text(cell) for cell in cells]


def _state(meeting: dict[str, Any]) -> str:
    if meeting["in_progress"]:
        return "in progress"
    return "ended" if meeting["ended_at"] else "imported"


def _ago(at: float) -> str:
    """Return the age of a time; after two days, or for one in the future, the date."""
    seconds = age_of(at, time.time())
    for unit, length, most in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 2 * 86400)):
        if seconds < most:
            return f"{int(seconds // length)} {unit} ago"
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d")
