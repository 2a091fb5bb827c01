"""Each way to serve HTTP (the three starts of a node, and `master-shim serve`), over one package, for raw clients."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import httpx

from tests.support.masters import ShimMaster
from tests.support.nodes import run_node
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually_blocking

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Process, Spawner

Kind = Literal["serve", "hypercorn", "hypercorn-trio", "shim"]
KINDS: tuple[Kind, ...] = ("serve", "hypercorn", "hypercorn-trio", "shim")

PACKAGE = "/api/v1/meetings/big/download-package-direct"
NODE_PACKAGE = "/api/v1/meetings/big/download-package"
ANSWER_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """What a server sent until it closed the connection."""

    raw: bytes

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.raw[9:12])

    @property
    def fields(self) -> dict[str, str]:
        lines = self.head.decode().split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]


class Server:
    """A running server. `package` is the path of a package of 6 MB, `content` its bytes."""

    def __init__(self, kind: Kind, process: Process, port: int, content: bytes) -> None:
        self.kind = kind
        self.process = process
        self.port = port
        self.content = content
        self.package = PACKAGE if kind == "shim" else NODE_PACKAGE

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS)

    def exchange(self, *parts: bytes, half_close: bool = False) -> Answer:
        """Send `parts` one after another, perhaps close the sending side, and read until the server closes."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):  # closed behind an earlier part
                for number, part in enumerate(parts):
                    if number:
                        time.sleep(0.1)  # so that they arrive apart
                    connection.sendall(part)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            return Answer(read_to_end(connection))


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the server closes or resets the connection."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            data += part
    return bytes(data)


def start_server(spawn: Spawner, folder: Path, kind: Kind, **settings: object) -> Server:
    """Start a server of the package `big`, and wait until it has it."""
    packages = folder / "packages"
    packages.mkdir()
    content = make_package(packages / "big.zip", make_documents(3, 2_000_000), level=1).path.read_bytes()
    master = ShimMaster(spawn, packages)
    if kind == "shim":
        return Server(kind, master.process, master.port, content)
    node = run_node(spawn, master.url, folder / "storage", start=kind, **settings)
    node.process.wait_port(node.port)
    eventually_blocking(lambda: "big" in httpx.get(f"{node.url}/ready", trust_env=False).json()["synced"], within=20)
    return Server(kind, node.process, node.port, content)
