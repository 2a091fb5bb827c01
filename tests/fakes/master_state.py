"""The state of the deployed master: meetings, nodes, the token, the start gate. No HTTP here.

All of it belongs to one asyncio loop: the original's registry, too, is in the memory of one process.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import uuid
import zipfile
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from blake3 import blake3

NOT_STARTED, IN_PROGRESS, ENDED = "未开始", "进行中", "已结束"
NO_TOKEN = "none"

MODES = (
    "ok",
    "500",  # the zip cannot be built
    "404",
    "error-txt",  # 200 with a zip that holds only ERROR.txt
    "readme-only",  # 200 with a zip that holds only README.txt
    "empty",  # 200 and no bytes
    "not-zip",  # 200 with a web page
    "truncated",  # half the bytes, then a proper end of the chunked body
    "cut",  # half the bytes, then the connection closes
    "stall",  # half the bytes, then nothing more
    "hang",  # no answer at all
)


@dataclass
class Behaviour:
    """The behaviour of the master; `POST /_control/behaviour` changes it at run time."""

    mode: str = "ok"
    modes: dict[str, str] = field(default_factory=dict)
    """Modes of single meetings, which override `mode`."""
    bytes_per_second: float = 0.0
    """Limit of each package download; 0: none."""
    body: str = "blocks"
    """`lines` iterates over the file's lines as the deployed master does (some MB/s); `blocks` are of 64 KiB."""
    status_node: bool = True
    """False: a master without `status/node`."""
    status_node_shape: str = "list"
    """`single`: the field `active_meeting` instead of the list."""
    token_list: str = "in-progress"
    """`all`: an older master, which lists every meeting with its status."""
    redirect: bool = True
    """Whether `download-package` sends clients to a random node."""

    def mode_of(self, meeting_id: str) -> str:
        return self.modes.get(meeting_id, self.mode)

    def change(self, changes: dict[str, Any]) -> None:
        """Set the given fields. Raises ValueError for one that does not exist."""
        for name, value in changes.items():
            if name not in self.__dataclass_fields__:
                raise ValueError(f"no such behaviour: {name!r}; there are {', '.join(self.__dataclass_fields__)}")
            setattr(self, name, value)
        for mode in (self.mode, *self.modes.values()):
            if mode not in MODES:
                raise ValueError(f"no such mode: {mode!r}; there are {', '.join(MODES)}")


@dataclass(frozen=True)
class Intervals:
    """Seconds, as deployed."""

    node_timeout: float = 30.0
    gate_check: float = 5.0
    gate_settle: float = 3.0
    gate_limit: float = 300.0


@dataclass
class Meeting:
    id: str
    source: Path
    title: str
    time: str = "2026-11-02 09:00"
    status: str = NOT_STARTED
    package: Path | None = None
    digest: str = ""
    size: int = 0
    builds: int = 0
    built_from: tuple[int, int] = (0, 0)
    gate: dict[str, Any] = field(default_factory=dict)


@dataclass
class Node:
    node_id: str
    address: str
    status: str
    since: float
    seen: float
    active_meetings: list[dict[str, Any]] = field(default_factory=list)
    synced: dict[str, bool] = field(default_factory=dict)


@dataclass
class Counters:
    """Counters since the start or the last `POST /_control/reset`."""

    downloads_begun: int = 0
    downloads_finished: int = 0
    bytes_sent: int = 0
    by_meeting: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    registrations: list[dict[str, Any]] = field(default_factory=list)
    unregistrations: list[str] = field(default_factory=list)
    heartbeats: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=2000))

    def count(self, table: dict[str, int], key: str) -> None:
        table[key] = table.get(key, 0) + 1


class MasterState:
    """The deployed master without its routes. `packages` holds an `<id>.zip` for each meeting."""

    def __init__(self, packages: Path, work: Path, intervals: Intervals, behaviour: Behaviour) -> None:
        self.packages = packages
        self.work = work
        self.intervals = intervals
        self.behaviour = behaviour
        self.token = NO_TOKEN
        self.meetings: dict[str, Meeting] = {}
        self.nodes: dict[str, Node] = {}
        self.counters = Counters()
        self._gates: dict[str, asyncio.Task[None]] = {}
        self.look()

    def look(self) -> None:
        """Add new meetings from the folder."""
        for source in sorted(self.packages.glob("*.zip")):
            meeting_id = unquote(source.stem)
            if meeting_id not in self.meetings:
                described = source.with_suffix(".json")
                details = json.loads(described.read_text()) if described.exists() else {}
                self.meetings[meeting_id] = Meeting(meeting_id, source, details.get("title", f"Meeting {meeting_id}"))

    def in_progress(self) -> list[Meeting]:
        return [meeting for meeting in self.meetings.values() if meeting.status == IN_PROGRESS]

    # Starting and ending.

    async def start(self, meeting_id: str) -> Meeting:
        """Build the package, put the meeting in progress, and start the gate in the background.

        A meeting in progress is ended and started again without a poll between: same id, new package.
        """
        self.look()
        meeting = self.meetings[meeting_id]
        package, digest = await asyncio.to_thread(self._build, meeting)
        if meeting.status == IN_PROGRESS:
            self.end(meeting_id)
        meeting.package, meeting.digest, meeting.size = package, digest, package.stat().st_size
        meeting.status = IN_PROGRESS
        for node in self.nodes.values():
            node.synced.pop(meeting_id, None)
        self._gates[meeting_id] = asyncio.create_task(self._gate(meeting))
        return meeting

    def end(self, meeting_id: str) -> Meeting:
        """End a meeting; the token changes at once."""
        meeting = self.meetings[meeting_id]
        meeting.status = ENDED
        if gate := self._gates.pop(meeting_id, None):
            gate.cancel()
        self.token = self._new_token() if any(other.gate.get("opened") for other in self.in_progress()) else NO_TOKEN
        return meeting

    def _new_token(self) -> str:
        return uuid.uuid4().hex

    def _build(self, meeting: Meeting) -> tuple[Path, str]:
        """Make the package to serve, and return it with its digest.

        A source that is new since the last build is served unchanged, so that its bytes are known to the test; any
        other is zipped again, which changes README.txt, time stamps and digest, but not the documents.
        """
        meeting.builds += 1
        target = self.work / f"{blake3(meeting.id.encode()).hexdigest()[:16]}-{meeting.builds}.zip"
        found = meeting.source.stat()
        seen = (found.st_mtime_ns, found.st_ino)
        if seen != meeting.built_from:
            shutil.copyfile(meeting.source, target)
            meeting.built_from = seen
        else:
            zip_anew(meeting.source, target, f"{meeting.title}\nGenerated: {datetime.now(UTC).isoformat()}\n")
        return target, blake3().update_mmap(target).hexdigest()

    async def _gate(self, meeting: Meeting) -> None:
        """Change the token when every online node has the meeting, or after `gate_limit`."""
        begun = time.monotonic()
        meeting.gate = gate = {
            "begun": time.time(),
            "missing": [],
            "opened": None,
            "gave_up": False,
            "seconds": None,
        }
        while missing := self.missing(meeting.id):
            gate["missing"] = missing
            if time.monotonic() - begun >= self.intervals.gate_limit:
                gate["gave_up"] = True
                break
            await asyncio.sleep(self.intervals.gate_check)
        await asyncio.sleep(self.intervals.gate_settle)
        gate["opened"] = time.time()
        gate["seconds"] = time.monotonic() - begun
        self.token = self._new_token()

    def missing(self, meeting_id: str) -> list[str]:
        """Return the online nodes that do not list the meeting as synced."""
        return [node.node_id for node in self.online() if not node.synced.get(meeting_id, False)]

    # Nodes.

    def register(self, node_id: str, address: str, status: str) -> Node:
        now = time.time()
        node = Node(node_id, address, status, since=now, seen=now)
        if known := self.nodes.get(node_id):
            node.since, node.synced = known.since, known.synced
        self.nodes[node_id] = node
        return node

    def heartbeat(self, body: dict[str, Any]) -> None:
        """Apply a heartbeat, which registers an unknown node. Only its active ids can be synced."""
        node = self.nodes.get(body["node_id"]) or self.register(body["node_id"], body["address"], body["status"])
        node.seen, node.address, node.status = time.time(), body["address"], body["status"]
        node.active_meetings = [meeting for meeting in body["active_meetings"] if isinstance(meeting, dict)]
        for meeting in node.active_meetings:
            node.synced[meeting["id"]] = meeting["id"] in body["synced_meetings"]
        self.counters.heartbeats.append({"at": node.seen, **body})

    def online(self) -> list[Node]:
        """Drop the nodes whose last heartbeat is too old, and return the others."""
        limit = time.time() - self.intervals.node_timeout
        self.nodes = {node_id: node for node_id, node in self.nodes.items() if node.seen >= limit}
        return list(self.nodes.values())

    def offered(self) -> list[str]:
        """Return the addresses for tablets: online nodes with a port, with or without the package."""
        return [node.address for node in self.online() if node.status == "online" and ":" in node.address]


def zip_anew(source: Path, target: Path, readme: str) -> None:
    """Zip the documents of `source` again as the master does: README.txt first, all time stamps new."""
    stamp = datetime.now(UTC).timetuple()
    when = (stamp[0], stamp[1], stamp[2], stamp[3], stamp[4], stamp[5])
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr(zipfile.ZipInfo("README.txt", when), readme, zipfile.ZIP_DEFLATED)
        for member in old.infolist():
            if member.filename != "README.txt":
                new.writestr(zipfile.ZipInfo(member.filename, when), old.read(member), zipfile.ZIP_DEFLATED)
