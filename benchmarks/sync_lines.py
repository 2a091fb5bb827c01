"""Hosts in network namespaces of their own, on lines whose speed `tc` limits in both directions.

Each host has one interface, `eth0`, whose other end is a port of a bridge. The bridge is in a namespace of its own, so
that nothing is added to the machine's network, and nothing outside can reach what listens inside. Needs root, `ip` and
`tc`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmarks.common import BenchmarkError, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

NETWORK = "10.203"
"""First half of the addresses, which exist only in the namespaces."""

CLONE_NEWNET = 0x40000000

BURST_BYTES = 64 << 10
"""The largest packet that the kernel hands over at once; a larger one would be cut."""

QUEUE_BYTES = 256 << 10
"""Queue before each line: 50 ms at 40 Mbit/s, as a usual switch port has."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host: its namespace, its IPv4 address, and its port at the bridge."""

    namespace: str
    address: str
    port: str

    def command(self, *parts: str | Path) -> list[str]:
        """Return the command that runs `parts` in this namespace, as the same process."""
        return ["ip", "netns", "exec", self.namespace, *map(str, parts)]

    def start(self, name: str, log: Path, *parts: str | Path) -> Server:
        """Run `parts` on this host. The process ends with the returned context manager."""
        return Server(name, 0, self.command(*parts), log)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let the sockets that this thread makes in the block belong to this host."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(Path("/run/netns") / self.namespace)
            try:
                yield
            finally:
                _set_namespace(here)
        finally:
            os.close(here)


class Network:
    """All hosts of a run, joined by a bridge. A context manager that removes them with all that runs in them."""

    def __init__(self) -> None:
        self._prefix = f"sync-{os.getpid()}-"
        self._hub = f"{self._prefix}hub"
        self._made: list[str] = []
        self._hosts: list[Host] = []

    def __enter__(self) -> Self:
        """Make the bridge. Raises `BenchmarkError` where this machine or user may not."""
        if os.geteuid() != 0:
            raise BenchmarkError("this benchmark makes network namespaces, for which it must be run by root")
        try:
            self._add_namespace(self._hub)
            _run("ip", "-n", self._hub, "link", "add", "br0", "type", "bridge")
            _run("ip", "-n", self._hub, "link", "set", "br0", "up")
        except BenchmarkError as error:
            self.close()
            raise BenchmarkError(f"network namespaces cannot be made on this machine: {error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Remove everything."""
        self.close()

    def add(self, name: str, address: str) -> Host:
        """Add a host at `NETWORK`.`address`, on a line without limit."""
        host = Host(f"{self._prefix}{name}", f"{NETWORK}.{address}", f"p{len(self._hosts)}")
        self._add_namespace(host.namespace)
        self._hosts.append(host)
        link = ("link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _run("ip", "-n", self._hub, *link)
        _run("ip", "-n", self._hub, "link", "set", host.port, "master", "br0", "up")
        _run("ip", "-n", host.namespace, "address", "add", f"{host.address}/16", "dev", "eth0")
        _run("ip", "-n", host.namespace, "link", "set", "eth0", "up")
        return host

    def limit(self, host: Host, bits_per_second: float | None) -> None:
        """Limit the line of `host` in each direction; None: no limit.

        The bridge has one queue for each port, as a simple switch. The host sends short packets first, as `fq_codel`,
        the usual queue of a Linux host, does in effect: in one queue with 256 KiB of data to be sent, acknowledgements
        would be 50 ms late, and what the host receives would slow down with what it sends.
        """
        host_device, port_device = ("-n", host.namespace), ("-n", self._hub)
        _run("tc", *host_device, "qdisc", "delete", "dev", "eth0", "root", failing=True)
        _run("tc", *port_device, "qdisc", "delete", "dev", host.port, "root", failing=True)
        if bits_per_second is None:
            return
        rate, queue = f"{bits_per_second:.0f}bit", ("limit", str(QUEUE_BYTES))
        bucket = ("tbf", "rate", rate, "burst", str(BURST_BYTES), *queue)
        _run("tc", *port_device, "qdisc", "add", "dev", host.port, "root", *bucket)
        _run("tc", *host_device, "qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb", "default", "2")
        parent = "1:"
        for number, share, priority in ((9, 1.0, 0), (1, 0.1, 0), (2, 0.9, 1)):
            htb = ("htb", "rate", f"{bits_per_second * share:.0f}bit", "ceil", rate, "prio", str(priority))
            burst = ("burst", str(BURST_BYTES), "cburst", str(BURST_BYTES))
            _run(
                "tc",
                *host_device,
                "class",
                "add",
                "dev",
                "eth0",
                "parent",
                parent,
                "classid",
                f"1:{number}",
                *htb,
                *burst,
            )
            parent = "1:9"
        _run("tc", *host_device, "qdisc", "add", "dev", "eth0", "parent", "1:2", "bfifo", *queue)
        short = ("u32", "match", "u16", "0x0000", "0xff80", "at", "2")  # the IP packet's length is less than 128 bytes
        _run(
            "tc",
            *host_device,
            "filter",
            "add",
            "dev",
            "eth0",
            "parent",
            "1:",
            "protocol",
            "ip",
            "prio",
            "1",
            *short,
            "flowid",
            "1:1",
        )

    def sent(self, host: Host) -> int:
        """Return the bytes that `host` has put on its line, Ethernet headers included."""
        found = json.loads(_run("ip", "-n", host.namespace, "-s", "-j", "link", "show", "dev", "eth0"))
        return int(found[0]["stats64"]["tx"]["bytes"])

    def close(self) -> None:
        """Kill what still runs in the namespaces, and remove them. The links go with them."""
        for namespace in self._made:
            for pid in _run("ip", "netns", "pids", namespace, failing=True).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            _run("ip", "netns", "delete", namespace, failing=True)
        self._made.clear()

    def _add_namespace(self, name: str) -> None:
        _run("ip", "netns", "add", name)
        self._made.append(name)
        _run("ip", "-n", name, "link", "set", "lo", "up")


def _run(*command: str, failing: bool = False) -> str:
    """Run a command and return its output. Raises `BenchmarkError`, unless it is `failing`: it may fail."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BenchmarkError(f"`{command[0]}` is not installed (package iproute2)") from error
    if ended.returncode and not failing:
        raise BenchmarkError(f"`{' '.join(command)}` says: {ended.stderr.strip()}")
    return ended.stdout


def _enter(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        _set_namespace(file)
    finally:
        os.close(file)


def _set_namespace(file: int) -> None:
    # os.setns exists from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise BenchmarkError(f"a network namespace cannot be entered: {os.strerror(number)}")


def kill_all(servers: Sequence[Server]) -> None:
    """Kill all processes at once: what they stored was read already, and ending in order would take seconds."""
    for server in servers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 9)
