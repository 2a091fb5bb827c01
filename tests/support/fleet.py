"""Several nodes of one master, as processes, and what their logs say about where they fetched from."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import trio

from master_shim.protocol.chain import rank
from tests.support.nodes import digest_of, run_node
from tests.support.processes import free_port
from tests.support.relay import relaying

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from tests.support.nodes import OurNode
    from tests.support.processes import Spawner
    from tests.support.relay import Relay

WITHIN = 60.0
"""Time limit for what all nodes have to do, on a busy machine."""

LOOK_SECONDS = 0.2
"""Interval between looks at the nodes. A relay runs in the process of the test, which must not be busy with looking."""


def ordered(key: str, names: Iterable[str]) -> list[str]:
    """Return names in the order of `key`."""
    return sorted(names, key=lambda name: rank(key, name))


class Fleet:
    """Nodes by their ids. They reach their master by `url`, which may be a relay's."""

    def __init__(self, spawn: Spawner, folder: Path, url: str, client: httpx.AsyncClient) -> None:
        self.client = client
        self.nodes: dict[str, OurNode] = {}
        self._spawn = spawn
        self._folder = folder
        self._url = url

    def __getitem__(self, name: str) -> OurNode:
        return self.nodes[name]

    def run(self, *names: str, env: dict[str, str] | None = None, **settings: Any) -> None:
        """Start nodes with these ids."""
        for name in names:
            self.nodes[name] = run_node(
                self._spawn,
                self._url,
                self._folder / name,
                env={"NODE_ID": name, **(env or {})},
                **{"log_level": "debug", **settings},
            )

    async def start(self, *names: str, **settings: Any) -> None:
        """Start nodes with these ids, and wait until they are registered."""
        self.run(*names, **settings)
        await self.until_registered(*names)

    @asynccontextmanager
    async def behind_relay(self, name: str, **settings: Any) -> AsyncIterator[Relay]:
        """Start a node with this id, which others reach through a relay, and yield the relay."""
        port = free_port()
        async with relaying(port) as relay:
            await self.start(name, port=port, node_address=relay.url, **settings)
            yield relay

    async def until_registered(self, *names: str) -> None:
        """Wait until nodes (all by default) are on the master's list."""
        await self.until(lambda name: "connected to the master" in self.log(name), *names)
        listed = [node["node_id"] for node in (await self.client.get(f"{self._url}/api/v1/nodes/list")).json()]
        assert {*(names or self.nodes)} <= {*listed}

    async def until(self, check: Any, *names: str) -> None:
        """Wait until `check`, which may be asynchronous, is true for nodes (all by default)."""
        missing = list(names or self.nodes)
        with trio.move_on_after(WITHIN):
            while missing:
                await trio.sleep(LOOK_SECONDS)
                for name in tuple(missing):
                    found = check(name)
                    if found if isinstance(found, bool) else await found:
                        missing.remove(name)
        assert not missing, f"{self.logs()}\nwaited in vain for {missing}"

    async def look(self, *names: str) -> None:
        """Let nodes (all by default) poll the master now: a request for a meeting that does not exist makes them."""
        async with trio.open_nursery() as nursery:
            for name in names or self.nodes:
                nursery.start_soon(self.client.get, self[name].package_url("unknown"))

    async def until_synced(self, *names: str, meeting: str = "m1") -> None:
        """Wait until nodes (all by default) say that they have the current package."""

        async def synced(name: str) -> bool:
            return meeting in (await self.client.get(f"{self[name].url}/ready")).json()["synced"]

        await self.until(synced, *names)

    async def until_whole(self, digest: str, *names: str, meeting: str = "m1") -> None:
        """Wait until nodes (all by default) have this version as the current one, and compare all bytes."""

        async def serves(name: str) -> bool:
            ready = await self.client.get(f"{self[name].url}/ready")
            if meeting not in ready.json()["synced"]:
                return False
            answer = await self.client.get(self[name].package_url(meeting))
            assert answer.headers["etag"] == f'"{digest_of(answer.content)}"'
            return digest_of(answer.content) == digest

        await self.until(serves, *names)

    async def until_held(self, token: str, *names: str, meeting: str = "m1") -> None:
        """Wait until nodes (all by default) hold what a legacy master has under `token`, and tell other nodes so."""

        async def held(name: str) -> bool:
            answer = await self.client.get(f"{self[name].url}/api/v1/meetings/{meeting}/fill", params={"token": token})
            found: bool = answer.json()["held"]
            return found

        await self.until(held, *names)

    async def fetched_from(self, name: str, meeting: str = "m1") -> dict[str, int]:
        """Return the bytes that the last fill of a node has received, by source."""
        meetings = (await self.client.get(f"{self[name].url}/api/status")).json()["active_meetings"]
        return next(each["fetched_from"] for each in meetings if each["id"] == meeting)

    def log(self, name: str) -> str:
        """Return the log of a node."""
        return self[name].process.log()

    def sources(self, name: str, meeting: str = "m1") -> list[str]:
        """Return where a node fetched from, in turn: ids of nodes, or "master"; nothing if only from the master."""
        return re.findall(rf"\] source +meeting={meeting} source=(\S+)", self.log(name))

    def logs(self) -> str:
        """Return all logs, for messages."""
        return "\n".join(f"--- {name}\n{self.log(name)}" for name in self.nodes)


@asynccontextmanager
async def fleet_at(
    url: str, spawn: Spawner, folder: Path, trusted: ssl.SSLContext | bool = False
) -> AsyncIterator[Fleet]:
    """Yield a fleet without nodes."""
    async with httpx.AsyncClient(verify=trusted, trust_env=False, timeout=WITHIN) as client:
        yield Fleet(spawn, folder, url, client)
