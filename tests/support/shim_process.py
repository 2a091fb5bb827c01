"""The process `master-shim serve`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.processes import Process, Spawner


class ServedShim:
    """A running process, its address, and raw requests to it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.port = int(process.wait_line(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def raw(self, request: bytes, *, within: float = 20.0) -> tuple[int, bytes]:
        """Send bytes as they are; return the status and everything after the headers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=within) as connection:
            connection.sendall(request)
            data = b""
            while part := connection.recv(65536):
                data += part
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body

    def get(self, path: str) -> tuple[int, bytes]:
        return self.raw(f"GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode())


def serve_shim(spawn: Spawner, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> ServedShim:
    command = ("-m", "master_shim", "serve", "--packages", str(folder), "--host", "127.0.0.1", "--port", "0")
    return ServedShim(spawn.python(*command, *arguments, env=env, name="serve"))
