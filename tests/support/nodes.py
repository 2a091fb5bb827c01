"""Our node as a running process, started in one of three ways."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx
from blake3 import blake3
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import ROOT, free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.processes import Process, Spawner

Start = Literal["serve", "module", "hypercorn", "hypercorn-trio"]
STARTS: tuple[Start, ...] = ("serve", "module", "hypercorn", "hypercorn-trio")

BIN = Path(sys.executable).parent


class OurNode:
    """A node as a process; `get` and similar calls use its HTTP API."""

    def __init__(self, process: Process, port: int, storage: Path, scheme: str = "http") -> None:
        self.process = process
        self.port = port
        self.storage = storage
        self._scheme = scheme

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def package_url(self, meeting_id: str) -> str:
        return f"{self.url}/api/v1/meetings/{meeting_id}/download-package"

    async def get(self, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            return await client.get(f"{self.url}{path}", **options)

    async def download(self, meeting_id: str, **options: Any) -> httpx.Response:
        return await self.get(f"/api/v1/meetings/{meeting_id}/download-package", **options)

    async def status(self) -> dict[str, Any]:
        answer = await self.get("/api/status")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def metrics(self) -> dict[str, float]:
        """Return the samples of `/metrics` by name, with labels as `name{label=value}`."""
        answer = await self.get("/metrics")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/plain; version=")
        return {
            sample.name + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    async def synced(self) -> list[str]:
        try:
            answer = await self.get("/ready")
        except httpx.HTTPError as error:
            assert self.process.returncode is None, self.process.log()
            raise AssertionError("not up yet") from error
        found: list[str] = answer.json().get("synced", [])
        return found

    async def until_synced(self, *meeting_ids: str, within: float = 20.0) -> None:
        async def check() -> bool:
            return set(meeting_ids) <= set(await self.synced())

        await eventually(check, within=within, what=f"synced {meeting_ids}")

    async def until_active(self, active: int, queued: int = 0) -> None:
        async def check() -> bool:
            status = await self.status()
            return (status["active_downloads"], status["queued_downloads"]) == (active, queued)

        await eventually(check, what=f"{active} active, {queued} queued")

    async def until_logged(self, words: str, *, within: float = 20.0) -> None:
        await eventually(lambda: words in self.process.log(), within=within, what=f"{words!r} in the log")

    async def until_up(self) -> None:
        async def check() -> bool:
            await self.synced()
            return True

        await eventually(check, within=20, what="the node answers")


def run_node(
    spawn: Spawner,
    master_url: str,
    storage: Path,
    *,
    start: Start = "serve",
    port: int = 0,
    env: Mapping[str, str] | None = None,
    **settings: object,
) -> OurNode:
    """Start a node on 127.0.0.1 in one of three ways; `settings` are passed as environment variables, beside `env`.

    A `certfile` and its `keyfile` are given to whatever serves.
    """
    port = port or free_port()
    scheme = "https" if "certfile" in settings else "http"
    tls: tuple[str, ...] = ()
    if scheme == "https" and start.startswith("hypercorn"):
        tls = ("--certfile", str(settings.pop("certfile")), "--keyfile", str(settings.pop("keyfile")))
        settings.setdefault("node_address", f"https://127.0.0.1:{port}")
    variables = {
        **(env or {}),
        "MAIN_SERVER_URL": master_url,
        "NODE_ADDRESS": str(settings.pop("node_address", f"127.0.0.1:{port}")),
        "STORAGE_PATH": str(storage),
        **{f"TRIONODE_{name.upper()}": str(value) for name, value in settings.items() if name != "sync_interval"},
    }
    if "sync_interval" in settings:
        variables["SYNC_INTERVAL"] = str(settings["sync_interval"])
    commands: dict[Start, tuple[str | Path, ...]] = {
        "serve": (BIN / "trionode", "serve", "--host", "127.0.0.1", "--port", str(port)),
        "module": (sys.executable, "-m", "trionode", "--host", "127.0.0.1", "--port", str(port)),
        "hypercorn": (BIN / "hypercorn", "-b", f"127.0.0.1:{port}", "trionode:app"),
        "hypercorn-trio": (BIN / "hypercorn", "-k", "trio", "-b", f"127.0.0.1:{port}", "trionode:app"),
    }
    return OurNode(spawn(*commands[start], *tls, env=variables, name=f"node-{start}"), port, storage, scheme)


def run_serve(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a `trionode serve` that cannot start, to its end."""
    command = [BIN / "trionode", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)


def digest_of(data: bytes) -> str:
    return blake3(data).hexdigest()
