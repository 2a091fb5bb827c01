"""A master and nodes, each on a line of its own, and one meeting that starts for all of them together."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from benchmarks.common import BenchmarkError, Server
from benchmarks.sync_lines import Host, Network, kill_all
from benchmarks.sync_relay import MANIFEST, PACKAGE, read_counts
from examples.demo.packages import Package, file_digest
from master_shim.protocol.chain import predecessors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

SHIM, LEGACY = "shim", "unmodified master"

MEETING = "meeting"
API = "/api/v1"

LINE = 40e6
"""Bits per second of a usual line: a package of 64 MB takes 13 s, and two cores can serve 16 such lines."""

MASTER_PORT, HIDDEN_PORT, NODE_PORT = 8000, 9000, 8001

START_SECONDS = 120.0
"""Time limit until all nodes are registered: with two cores, each takes about a second."""

HOLD_SECONDS = 3.6
"""How long nodes are stopped before a meeting starts: more than the longest interval between polls."""

POLL_SECONDS = 0.01

WATCHER, MASTER_ADDRESS = "0.2", "0.1"


@dataclass(frozen=True, slots=True)
class Setup:
    """What is started: `nodes` of ours at a `master`. With `peers` they fetch from each other."""

    nodes: int
    master: str = SHIM
    peers: bool = True
    line: float = LINE
    master_line: float = LINE
    slow: frozenset[str] = frozenset()
    """Nodes whose line has a quarter of the speed."""


@dataclass(slots=True)
class Outcome:
    """What happened until all nodes had the package. Seconds count from the start of the meeting."""

    seconds: dict[str, float] = field(default_factory=dict)
    """By node."""
    package_bytes: int = 0
    manifest_bytes: int = 0
    line_bytes: int = 0
    """Sent by the master, the last one with the headers of all layers and all other answers."""

    def last(self, without: Iterable[str] = ()) -> float:
        """Return when the last node had the package."""
        left_out = set(without)
        return max(seconds for node, seconds in self.seconds.items() if node not in left_out)


@dataclass(frozen=True, slots=True)
class At:
    """Something done once, when the master has sent `share` of the package."""

    share: float
    action: Callable[[], None]


class Cluster:
    """Master and nodes of a `Setup`, with their files in `folder`. A context manager that ends them all."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup = setup
        self.folder = folder
        self.network = Network()
        self.servers: dict[str, Server] = {}
        self.hosts: dict[str, Host] = {}
        self.packages = folder / "packages"
        self._counts = folder / "counts"
        self._stack = ExitStack()
        self._started: list[Server] = []

    @property
    def names(self) -> list[str]:
        """The ids of the nodes."""
        return [f"node-{number:02}" for number in range(1, self.setup.nodes + 1)]

    @property
    def master_url(self) -> str:
        """The URL of the master, valid on all hosts."""
        return f"http://{self.master.address}:{MASTER_PORT}"

    def order(self, key: str, *others: str) -> list[str]:
        """Return the nodes, and `others`, in the order of `key`."""
        names = [*self.names, *others]
        return sorted(names, key=lambda name: len(predecessors(key, name, names)))

    def __enter__(self) -> Self:
        """Start everything without limits, and return when all nodes are registered."""
        try:
            self._stack.enter_context(self.network)
            self.master = self.network.add("master", MASTER_ADDRESS)
            self.watcher = self.network.add("watch", WATCHER)
            self._start_master()
            for number, name in enumerate(self.names, 1):
                self._start_node(name, number)
            self.wait("all nodes are registered", self._all_registered, START_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End everything."""
        self.close()

    def close(self) -> None:
        """Kill all processes, and remove the network."""
        kill_all(self._started)
        self._stack.close()

    def start(self, name: str, host: Host, *command: str | Path) -> Server:
        """Run a command on a host until the end."""
        server = self._stack.enter_context(host.start(name, self.folder / f"{name}.log", *command))
        self._started.append(server)
        return server

    def _start_master(self) -> None:
        self.packages.mkdir()
        hidden = ("--packages", self.packages, "--port", str(HIDDEN_PORT))
        if self.setup.master == SHIM:
            self.start("master", self.master, sys.executable, "-m", "master_shim", "serve", "--host=127.0.0.1", *hidden)
        else:
            self.start("master", self.master, sys.executable, "-m", "tests.fakes.legacy_master", *hidden)
        here = (f"{self.master.address}:{MASTER_PORT}", f"127.0.0.1:{HIDDEN_PORT}", self._counts)
        self.start("relay", self.master, sys.executable, "-m", "benchmarks.sync_relay", *here)
        self.wait("the master answers", lambda: self.ask("/") is not None, START_SECONDS)

    def _start_node(self, name: str, number: int) -> None:
        host = self.hosts[name] = self.network.add(f"n{number}", f"1.{number}")
        command = [sys.executable, "-m", "trionode", "serve", "--main-server", self.master_url, "--node-id", name]
        command += ["--node-address", f"{host.address}:{NODE_PORT}", "--host", host.address, "--port", str(NODE_PORT)]
        command += ["--storage-path", str(self.folder / name), "--peers", "auto" if self.setup.peers else "off"]
        self.servers[name] = self.start(name, host, *command)

    def _all_registered(self) -> bool:
        return self.listed() >= set(self.names)

    def listed(self) -> set[str]:
        """Return the ids of the nodes that the master lists."""
        return {entry["node_id"] for entry in self.ask(f"{API}/nodes/list") or []}

    def ask(self, path: str, method: str = "GET") -> Any:
        """Return the JSON of the master's answer; None for no answer or an error, {} for anything but JSON."""
        with self.watcher.entered():
            connection = http.client.HTTPConnection(self.master.address, MASTER_PORT, timeout=30)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request(method, path)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status >= http.client.BAD_REQUEST:
                    return None
                return json.loads(body) if "json" in answer.getheader("Content-Type", "") else {}
        return None

    # -- the meeting ------------------------------------------------------------------------------------------------

    def limit_lines(self) -> None:
        """Limit all lines as the setup says."""
        self.network.limit(self.master, self.setup.master_line)
        for name, host in self.hosts.items():
            self.network.limit(host, self.setup.line / (4 if name in self.setup.slow else 1))

    def publish(self, package: Package) -> None:
        """Make `package` the meeting's current one at the master; return when the master shows it to nodes."""
        temporary = self.packages / f".{MEETING}.new"
        temporary.hardlink_to(package.path)
        temporary.replace(self.packages / f"{MEETING}.zip")
        if self.setup.master == LEGACY:
            if (started := self.ask(f"/_control/meetings/{MEETING}/start", "POST")) is None:
                raise BenchmarkError("the unmodified master does not start the meeting")
            if started["digest"] != package.digest:
                raise BenchmarkError("the unmodified master made another package")
        else:
            # The manifest is made when it is first asked for.
            shown = f"{API}/meetings/{MEETING}/manifest"
            self.wait("the master has the manifest", lambda: self._digest_of(shown) == package.digest, START_SECONDS)

    def _digest_of(self, path: str) -> str | None:
        found = self.ask(path)
        return None if found is None else found.get("digest")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Stop all nodes for the block, and let them go on together: at its end each has a poll of the master due."""
        for server in self.servers.values():
            os.kill(server.pid, signal.SIGSTOP)
        try:
            time.sleep(HOLD_SECONDS)
            yield
        finally:
            for server in self.servers.values():
                os.kill(server.pid, signal.SIGCONT)

    def fetch(
        self,
        package: Package,
        limit: float,
        *,
        meanwhile: At | None = None,
        without: Iterable[str] = (),
        hold: bool = True,
    ) -> Outcome:
        """Start the meeting for all nodes; return when all have `package`, except those in `without`.

        Raises `BenchmarkError` after `limit` seconds, and if a node has stored wrong bytes.
        """
        outcome = Outcome()
        with self.held() if hold else contextlib.nullcontext():
            self.publish(package)
            before, line_before = self._sent(), self.network.sent(self.master)
        began = time.monotonic()
        missing = {name: self.folder / name / "packages" / f"{package.digest}.json" for name in self.names}
        left_out = set(without)
        while missing.keys() - left_out:
            now = time.monotonic() - began
            for name in [name for name, path in missing.items() if path.exists()]:
                outcome.seconds[name] = now
                del missing[name]
            if meanwhile and self._sent()[0] - before[0] >= meanwhile.share * package.size:
                meanwhile.action()
                meanwhile = None
            if now > limit:
                raise BenchmarkError(f"{', '.join(missing)}: no package after {limit:.0f} s\n{self._tail(missing)}")
            time.sleep(POLL_SECONDS)
        after = self._sent()
        outcome.line_bytes = self.network.sent(self.master) - line_before
        outcome.package_bytes, outcome.manifest_bytes = after[0] - before[0], after[1] - before[1]
        for name in outcome.seconds:
            if file_digest(self.folder / name / "packages" / f"{package.digest}.zip") != package.digest:
                raise BenchmarkError(f"{name} has stored wrong bytes")
        return outcome

    def _sent(self) -> tuple[int, int]:
        counts = read_counts(self._counts)
        return sum(counts.get(PACKAGE, {}).values()), sum(counts.get(MANIFEST, {}).values())

    def _tail(self, names: Iterable[str]) -> str:
        name = next(iter(names))
        return f"{name} says:\n" + "\n".join((self.folder / f"{name}.log").read_text().splitlines()[-15:])

    def wait(self, what: str, check: Callable[[], bool], limit: float) -> None:
        """Wait until `check` returns true. Raises `BenchmarkError` after `limit` seconds."""
        deadline = time.monotonic() + limit
        while not check():
            if time.monotonic() > deadline:
                logs = [path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log"))[:2]]
                raise BenchmarkError(f"timed out after {limit:.0f} s until {what}\n" + "\n".join(logs))
            time.sleep(0.1)

    def signaller(self, name: str, number: signal.Signals) -> Callable[[], None]:
        """Return the action that sends a signal to a node."""
        return functools.partial(os.kill, self.servers[name].pid, number)
