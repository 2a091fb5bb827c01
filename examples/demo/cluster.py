"""A master with the shim, and its nodes: start them, wait for them, read their status."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import trio

from examples.demo.packages import Package, make_documents, make_package
from examples.demo.processes import DemoError, Server, Servers, free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

WAIT_SECONDS = 25.0
"""Time limit of each step, on a slow machine."""

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Meeting:
    """A meeting with a generated package: `documents` of about `size` bytes each."""

    id: str
    title: str
    documents: int
    size: int


@dataclass(frozen=True, slots=True)
class Node:
    """A running node."""

    name: str
    address: str
    server: Server

    @property
    def url(self) -> str:
        """The URL of the node."""
        return f"http://{self.address}"


class Cluster:
    """The servers of the demo, with their files in `folder`. `client` is closed by its owner."""

    def __init__(self, folder: Path, servers: Servers, client: httpx.AsyncClient) -> None:
        self._folder = folder
        self._servers = servers
        self._client = client
        self._master_address = f"127.0.0.1:{free_port()}"
        self.master_server: Server | None = None
        self.packages: dict[str, Package] = {}
        self.nodes: list[Node] = []

    @property
    def master(self) -> str:
        """The master's URL."""
        return f"http://{self._master_address}"

    @property
    def names(self) -> dict[str, str]:
        """The names of all senders by host:port, the master last."""
        return {**{node.address: node.name for node in self.nodes}, self._master_address: "master"}

    async def make_packages(self, meetings: tuple[Meeting, ...]) -> None:
        """Write a package for each meeting, not yet into the master's folder."""
        folder = self._folder / "made"
        folder.mkdir()
        for meeting in meetings:
            documents = make_documents(meeting.documents, meeting.size, seed=meeting.id)
            make = functools.partial(make_package, folder / f"{meeting.id}.zip", documents, title=meeting.title)
            self.packages[meeting.id] = await trio.to_thread.run_sync(make)

    def begin(self, meeting: Meeting) -> None:
        """Move a package into the master's folder, by a rename."""
        package, folder = self.packages[meeting.id], self._folder / "packages"
        path = folder / package.path.name
        path.with_suffix(".json").write_text(json.dumps({"title": meeting.title}), encoding="utf-8")
        self.packages[meeting.id] = dataclasses.replace(package, path=package.path.rename(path))

    async def start_master(self) -> Server:
        """Run `master-shim serve` over an empty folder; return when it answers."""
        port = self._master_address.rpartition(":")[2]
        (self._folder / "packages").mkdir()
        packages = str(self._folder / "packages")
        server = self._servers.start(
            "master", "master-shim", "serve", "--packages", packages, "--host", "127.0.0.1", "--port", port
        )
        self.master_server = server
        await self.until("the master answers", server, lambda: self._answers(f"{self.master}/"))
        return server

    def start_node(self, name: str) -> Node:
        """Run `trionode serve` with its own storage folder and port; return at once."""
        port = str(free_port())
        address = f"127.0.0.1:{port}"
        server = self._servers.start(
            name,
            *("trionode", "serve", "--main-server", self.master, "--node-id", name, "--node-address", address),
            *("--storage-path", str(self._folder / name), "--host", "127.0.0.1", "--port", port),
        )
        node = Node(name, address, server)
        self.nodes.append(node)
        return node

    async def wait_ready(self, node: Node) -> None:
        """Wait until a node is ready, and the master lists it."""

        async def listed() -> bool:
            ready = await self._answers(f"{node.url}/ready")
            entries = await self._json(f"{self.master}/api/v1/nodes/available") if ready else None
            return entries is not None and node.address in entries["nodes"]

        await self.until(f"{node.name} is ready", node.server, listed)

    async def wait_holds(self, node: Node, package: Package) -> None:
        """Wait until the master lists a node for the current version of a package."""
        url = f"{self.master}/api/v1/packages/{package.digest}/nodes"

        async def heard() -> bool:
            entries = await self._json(url)
            return any(entry["address"] == node.address and entry.get("held") for entry in entries or [])

        await self.until(f"the master lists {node.name} for {package.path.name}", node.server, heard)

    async def fetched(self, node: Node, meeting_id: str) -> dict[str, int]:
        """Return how many bytes a node has fetched for the current version of a package, by sender."""
        status = await self._json(f"{node.url}/api/status")
        for meeting in [] if status is None else status["active_meetings"]:
            if meeting["id"] == meeting_id:
                return dict(meeting["fetched_from"])
        raise DemoError(f"{node.name} does not return the status of {meeting_id}")

    async def until(self, what: str, server: Server, check: Callable[[], Awaitable[bool]]) -> None:
        """Wait until `check` returns true. Raises `DemoError` if `server` ends, or after `WAIT_SECONDS`."""
        with trio.move_on_after(WAIT_SECONDS):
            while True:
                server.check()
                if await check():
                    return
                await trio.sleep(POLL_SECONDS)
        raise DemoError(
            f"timed out after {WAIT_SECONDS:.0f} s until {what}; last lines of {server.name}:\n{server.tail()}"
        )

    async def _answers(self, url: str) -> bool:
        try:
            return (await self._client.get(url)).status_code < httpx.codes.BAD_REQUEST
        except httpx.TransportError:
            return False

    async def _json(self, url: str) -> Any:
        """Return the JSON of a successful answer, otherwise None."""
        try:
            answer = await self._client.get(url)
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == httpx.codes.OK else None
