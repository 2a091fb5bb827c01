"""The routes for administrators: what the master knows of nodes and packages, as JSON and as metrics.

No package is read for them, so that they are answered at once.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from ..asgi import NO_STORE, Answer, Request, json_answer
from ..errors import FolderUnreadable, RouteMissing
from ..node import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..activity import Activity
    from ..node import RegisteredNode
    from ..packages.file import PackageVersion
    from ..packages.in_progress import InProgress
    from ..packages.source import ListedMeeting
    from ..packages.versions import PackageVersions
    from ..registry import Registry
    from .sending import PackageSender

_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
"""The media type of the Prometheus text format."""


MAX_FETCHING = 1_000
"""Most nodes that are listed as fetching one meeting's package: anyone may register ten thousand."""


class ReportHandlers:
    """Handlers of the routes for administrators."""

    def __init__(
        self,
        in_progress: InProgress,
        versions: PackageVersions,
        registry: Registry,
        sender: PackageSender,
        activity: Activity,
        clock: Callable[[], float],
    ) -> None:
        self._in_progress = in_progress
        self._versions = versions
        self._registry = registry
        self._sender = sender
        self._activity = activity
        self._clock = clock
        self._started = clock(), time.time()

    async def status(self, request: Request) -> Answer:
        """Answer `nodes/status`."""
        now = self._clock()
        nodes = self._registry.nodes(now)
        value: dict[str, object] = {
            "timestamp": time.time(),
            "uptime": now - self._started[0],
            "downloads": {**self._downloads(), "sending": self._sender.active, "bytes_sent": self._sender.bytes_sent},
            "nodes_lost": self._activity.nodes_lost,
            "nodes": [_describe(node, now) for node in nodes],
            "meetings": None,
            "reason": "",
        }
        try:
            value["meetings"] = await self._meetings(nodes)
        except RouteMissing:
            value["reason"] = "the master's own application finds the packages"
        except FolderUnreadable as error:
            value["reason"] = str(error)
        return json_answer(value, 200, NO_STORE)

    async def metrics(self, request: Request) -> Answer:
        """Answer `/metrics` and `nodes/metrics` in the Prometheus text format."""
        nodes = self._registry.nodes(self._clock())
        states = Counter(node.state for node in nodes)
        conflicts = sum(bool(node.conflict) for node in nodes)
        kept = [state for state in State if state is not State.ABSENT]
        lines = [
            *_metric("start_time_seconds", "gauge", "Start time of the master, in Unix seconds.", self._started[1]),
            *_metrics("nodes", "gauge", "Live nodes, by state.", "state", {s.value: states[s] for s in kept}),
            *_metric(
                "nodes_lost_total", "counter", "Nodes removed because they were silent.", self._activity.nodes_lost
            ),
            *_metric("nodes_in_conflict", "gauge", "Live nodes that share their id or address.", conflicts),
            *_metrics("downloads_total", "counter", "Requests for packages, by answer.", "answer", self._downloads()),
            *_metric("sends_active", "gauge", "Packages being sent by the master itself.", self._sender.active),
            *_metric("sent_bytes_total", "counter", "Bytes of packages sent by the master.", self._sender.bytes_sent),
        ]
        try:
            known = await self._in_progress.known()
        except (RouteMissing, FolderUnreadable):
            pass  # absent, as Prometheus has it for what is unknown
        else:
            ready = sum(version is not None for _, version in known)
            counts = {"ready": ready, "unread": len(known) - ready}
            lines += _metrics("meetings", "gauge", "Meetings in progress, by their package.", "package", counts)
            lines += _fetching_metrics(known, nodes)
        return Answer(200, (_TEXT, NO_STORE), "".join(f"{line}\n" for line in lines).encode())

    def _downloads(self) -> dict[str, int]:
        activity = self._activity
        return {"redirected": activity.redirected, "offered": activity.offered, "sent_here": activity.sent_here}

    async def _meetings(self, nodes: Sequence[RegisteredNode]) -> list[dict[str, object]]:
        """Describe the meetings in progress. Raises `RouteMissing`, `FolderUnreadable`."""
        held = Counter(item for node in nodes if node.offered for item in node.packages.items())
        synced = Counter(name for node in nodes if node.offered and node.protocol == 0 for name in node.synced)
        known = await self._in_progress.known()
        sources = _sources(known, nodes)
        meetings: list[dict[str, object]] = []
        for meeting, version in known:
            digest = None if version is None else str(version.digest)
            fetching = [] if digest is None else sources[digest]
            meetings.append(
                {
                    "id": meeting.id,
                    "title": meeting.title,
                    "version": digest,
                    "size": None if version is None else version.size,
                    "reason": self._versions.problem(meeting.path),
                    "nodes": 0 if digest is None else held[meeting.id, digest] + synced[meeting.id],
                    "filling": len(fetching),
                    "fetching": [{"node_id": name, "source": source} for name, source in fetching[:MAX_FETCHING]],
                }
            )
        return meetings


def _sources(
    known: Sequence[tuple[ListedMeeting, PackageVersion | None]], nodes: Sequence[RegisteredNode]
) -> dict[str, list[tuple[str, str]]]:
    """Return for each known version the nodes that fetch it, each with its source: a node's id, or "" for the master.

    A node that does not report its sources fetches from the master.
    """
    found: dict[str, list[tuple[str, str]]] = {str(version.digest): [] for _, version in known if version is not None}
    for node in nodes:
        for digest in node.filling & found.keys():
            found[digest].append((node.node_id, node.sources.get(digest, "")))
    return found


def _fetching_metrics(
    known: Sequence[tuple[ListedMeeting, PackageVersion | None]], nodes: Sequence[RegisteredNode]
) -> list[str]:
    name, sources = "fetching_nodes", _sources(known, nodes)
    lines = [*_head(name, "gauge", "Nodes that fetch the package of a meeting, by where they fetch it.")]
    for meeting, version in known:
        fetching = [] if version is None else sources[str(version.digest)]
        label = meeting.id.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        others = sum(bool(source) for _, source in fetching)
        for kind, count in (("master", len(fetching) - others), ("node", others)) if fetching else ():
            lines.append(f'master_shim_{name}{{meeting="{label}",source="{kind}"}} {count}')
    return lines


def _describe(node: RegisteredNode, now: float) -> dict[str, object]:
    return {
        "node_id": node.node_id,
        "address": node.address,
        "scheme": node.scheme,
        "state": node.state.value,
        "offered": node.offered,
        "protocol": node.protocol,
        "silent": now - node.last_seen,
        "conflict": node.conflict,
        "active_downloads": node.load.active_downloads,
        "max_downloads": node.load.max_downloads,
        "bytes_per_second": node.load.bytes_per_second,
        "packages": len(node.packages) if node.protocol else len(node.synced),
        "filling": len(node.filling),
    }


def _metric(name: str, kind: str, text: str, value: float) -> list[str]:
    return [*_head(name, kind, text), f"master_shim_{name} {value}"]


def _metrics(name: str, kind: str, text: str, label: str, values: Mapping[str, float]) -> list[str]:
    """Return the lines of a metric with a label. Its values are ours and need no escape."""
    return [*_head(name, kind, text), *(f'master_shim_{name}{{{label}="{key}"}} {values[key]}' for key in values)]


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP master_shim_{name} {text}", f"# TYPE master_shim_{name} {kind}"
