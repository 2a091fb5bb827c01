"""The address that the node reports to the master, its default, and what is wrong with it.

By default it is the address from which this machine reaches the master, with a port that this process listens on. The
sockets of the process are searched, since under Hypercorn's own command only Hypercorn knows its `--bind`.
"""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import trio

from master_shim.protocol import Registration, is_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..settings import Settings

RESOLVE_SECONDS = 5.0
"""Time limit for resolving the master's name; a name server that is down may take half a minute."""

FIRST_FDS = 1024
"""Descriptors that are searched for listening sockets: a server opens them before almost everything else."""


class Listener(NamedTuple):
    """Address and port that a TCP socket of this process is bound to."""

    host: str
    port: int


class ReportedAddress:
    """The registration of this node at the master. `problem` says why clients may not reach its address, or is ""."""

    def __init__(self, node_id: str, settings: Settings) -> None:
        self._settings = settings
        address = settings.address or f"localhost:{settings.port}"
        self.registration = Registration(node_id, address, scheme=settings.scheme, instance=os.urandom(8).hex())
        self.problem = ""

    async def find(self) -> None:
        """Determine the default anew, and check the address. Takes `RESOLVE_SECONDS` at most."""
        settings, listeners = self._settings, listening_sockets()
        local, unresolved = await _local_addresses(settings.main_server)
        address = settings.address or default_address(listeners, local, settings.port)
        # An address with a scheme is that of a proxy or a port mapping, whose port may be any.
        ports = set() if "://" in settings.node_address else {listener.port for listener in listeners}
        self.registration = msgspec.structs.replace(self.registration, address=address)
        self.problem = problem_of(address, ports, local)
        if unresolved and not (settings.address or self.problem):
            self.problem = f"the default of NODE_ADDRESS is not known: {unresolved}"


def default_address(listeners: Sequence[Listener], local: Sequence[str], port: int) -> str:
    """Return the `host:port` by which clients of other machines reach one of `listeners`, else that for this machine.

    `local` are the addresses of this machine from which it reaches the master. Without listeners, the port is `port`.
    """
    for host, bound in listeners:
        if _is_unspecified(host):
            # An IPv6 socket accepts both kinds.
            usable = [each for each in local if not _is_loopback(each) and (":" in host or ":" not in each)]
        else:
            usable = [] if _is_loopback(host) else [host]
        for each in usable:
            address = f"[{each}]:{bound}" if ":" in each else f"{each}:{bound}"
            if is_address(address):  # a link-local IPv6 address is not valid in a URL
                return address
    return f"localhost:{listeners[0].port if listeners else port}"


def problem_of(address: str, ports: set[int], local: Sequence[str]) -> str:
    """Return why clients cannot reach `address`, and what to do; "" if nothing is known to be wrong.

    `ports` are those that this process listens on; empty, if the port of the address may be any.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if _is_unspecified(host):
        return f"{host} is no address to connect to; set NODE_ADDRESS to the address of this machine in the network"
    if _is_loopback(host) and any(not _is_loopback(each) for each in local):
        return (
            f"the master is reached over the network, but only programs on this machine reach {host}; listen on an "
            "address of the network, and set NODE_ADDRESS to it"
        )
    if ports and int(port) not in ports:
        shown = " and ".join(map(str, sorted(ports)))
        return (
            f"this node listens on port {shown}, not on {port}; correct NODE_ADDRESS, or begin it with http:// or "
            "https:// if a proxy or a port mapping forwards that port"
        )
    return ""


def listening_sockets() -> list[Listener]:
    """Return the TCP sockets that this process listens on, or is about to.

    Hypercorn on asyncio starts the application between `bind` and `listen`.
    """
    found = []
    for fd in range(FIRST_FDS):
        try:
            each = socket.socket(fileno=fd)
        except OSError:
            continue  # not open, or not a socket
        try:
            if each.family in {socket.AF_INET, socket.AF_INET6} and each.type == socket.SOCK_STREAM:
                host, port = each.getsockname()[:2]
                if port and _listens(each):
                    found.append(Listener(host, port))
        finally:
            each.detach()
    return found


def _listens(each: socket.socket) -> bool:
    """Return whether a socket listens, or is a server's that is bound only.

    Servers set SO_REUSEADDR. A connection that is being opened, or was reset, has an own port and no peer, too.
    """
    if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return True
    return bool(each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) and not _has_peer(each)


def _has_peer(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


async def _local_addresses(url: str) -> tuple[list[str], str]:
    """Return the addresses of this machine from which it reaches a URL, or a sentence why there are none."""
    parts = urlsplit(url)
    reason = f"no answer of the name server within {RESOLVE_SECONDS:g} s"
    with trio.move_on_after(RESOLVE_SECONDS):
        try:
            found = await trio.socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        else:
            local = [each for family, *_, address in found if (each := local_address(family, address))]
            if local:
                return local, ""
            reason = "this machine has no route to it"
    return (
        [],
        f"the master at {parts.hostname} cannot be reached ({reason}); correct MAIN_SERVER_URL or set NODE_ADDRESS",
    )


def local_address(family: int, remote: tuple[Any, ...]) -> str:
    """Return the address of this machine from which it reaches `remote`, or "" without a route. Sends nothing."""
    try:
        # Connecting a UDP socket only chooses the route.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(remote)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _is_loopback(host: str) -> bool:
    return host.lower() == "localhost" or _is(host, "is_loopback")


def _is_unspecified(host: str) -> bool:
    return _is(host, "is_unspecified")


def _is(host: str, kind: str) -> bool:
    try:
        return bool(getattr(ip_address(host), kind))
    except ValueError:
        return False  # a name
