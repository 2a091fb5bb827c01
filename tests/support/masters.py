"""`master-shim serve` as a running process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.processes import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Process, Spawner


class ShimMaster:
    """`master-shim serve` over a folder."""

    def __init__(self, spawn: Spawner, folder: Path, port: int = 0) -> None:
        self._spawn = spawn
        self.folder = folder
        self.port = port or free_port()
        self.process = self._run()

    def _run(self) -> Process:
        arguments = ("--packages", self.folder, "--host", "127.0.0.1", "--port", str(self.port))
        process = self._spawn(sys.executable, "-m", "master_shim", "serve", *arguments, name="master-shim")
        process.wait_port(self.port)
        return process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=30, **options)

    def nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/api/v1/nodes/list").json()
        return found

    def version(self, meeting_id: str) -> str:
        """Return the digest of a meeting's current package."""
        answer = self.get(f"/api/v1/meetings/{meeting_id}/manifest", headers={"Accept-Encoding": "identity"})
        assert answer.status_code == 200, answer.text
        digest: str = answer.json()["digest"]
        return digest

    def kill(self) -> None:
        self.process.kill()

    def run_again(self) -> None:
        self.process = self._run()
