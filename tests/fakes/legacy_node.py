"""The deployed node, as a process: `python -m tests.fakes.legacy_node --main-server URL --port P ...`.

It has the deployed faults: a package is read whole into memory and written in place, two tablets that find no file
start two fetches, "synced" means that a file of that name exists, a restart is not detected, nothing is validated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, HTMLResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class LegacyNode:
    """The state and the loop of the deployed node."""

    def __init__(self, main_server: str, address: str, storage: Path, interval: float, node_id: str) -> None:
        self.main_server = main_server.rstrip("/")
        self.address = address
        self.storage = storage
        self.interval = interval
        self.node_id = node_id
        self.running = True
        self.connected = False
        self.sync_status = "未同步"
        self.started = time.time()
        self.last_sync = 0.0
        self.active: list[dict[str, str]] = []
        self.sync_times: dict[str, float] = {}
        self.client = httpx.AsyncClient(verify=False, trust_env=False, timeout=60)

    def package(self, meeting_id: str) -> Path:
        return self.storage / meeting_id / "package.zip"

    def held(self) -> list[str]:
        """Return the ids with a file of the right name, whatever its content."""
        return sorted(path.parent.name for path in self.storage.glob("*/package.zip"))

    async def post(self, action: str, body: dict[str, Any]) -> None:
        answer = await self.client.post(f"{self.main_server}/api/v1/nodes/{action}", json=body)
        answer.raise_for_status()

    async def register(self) -> None:
        await self.post("register", {"node_id": self.node_id, "address": self.address, "status": "online"})
        self.connected = True

    async def beat(self) -> None:
        await self.post(
            "heartbeat",
            {
                "node_id": self.node_id,
                "address": self.address,
                "status": "online",
                "active_meetings": self.active,
                "synced_meetings": self.held(),
            },
        )

    async def look(self) -> list[dict[str, str]]:
        """Return the meetings in progress, from `status/node`, or else from `status/token`."""
        answer = await self.client.get(f"{self.main_server}/api/v1/meetings/status/node")
        if answer.status_code == 200:
            found = answer.json()
            single = found.get("active_meeting")
            return list(found.get("active_meetings") or ([single] if single else []))
        answer = await self.client.get(f"{self.main_server}/api/v1/meetings/status/token")
        answer.raise_for_status()
        return [
            {"id": meeting["id"], "title": meeting.get("title", "")}
            for meeting in answer.json()["meetings"]
            if meeting.get("status", "进行中") == "进行中"
        ]

    async def pull(self, meeting_id: str) -> bool:
        """Read the whole package into memory and write it in place."""
        url = f"{self.main_server}/api/v1/meetings/{quote(meeting_id, safe='')}/download-package-direct"
        answer = await self.client.get(url)
        if answer.status_code != 200:
            return False
        path = self.package(meeting_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(answer.content)
        self.sync_times[meeting_id] = time.time()
        return True

    async def sync(self) -> None:
        self.sync_status = "同步中"
        try:
            self.active = await self.look()
            for meeting in self.active:
                if not self.package(meeting["id"]).exists():
                    await self.pull(meeting["id"])
        except httpx.HTTPError as error:
            self.connected = False
            self.sync_status = f"同步失败: {error}"
        else:
            self.connected = True
            self.last_sync = time.time()
            self.sync_status = "同步成功"

    async def loop(self) -> None:
        """Register, then sync and send heartbeats for ever."""
        while True:
            try:
                if not self.connected:
                    await self.register()
                if self.running:
                    await self.sync()
                await self.beat()
            except httpx.HTTPError as error:
                self.connected = False
                self.sync_status = f"连接出错: {error}"
            await asyncio.sleep(self.interval)

    def describe(self, meeting_id: str) -> dict[str, Any]:
        path = self.package(meeting_id)
        try:
            files = len(zipfile.ZipFile(path).namelist())
        except zipfile.BadZipFile:
            files = 0
        titles = {meeting["id"]: meeting.get("title", "") for meeting in self.active}
        return {
            "id": meeting_id,
            "title": titles.get(meeting_id, ""),
            "sync_time": self.sync_times.get(meeting_id, 0.0),
            "size": path.stat().st_size,
            "file_count": files,
            "status": "active" if meeting_id in titles else "synced",
        }

    def status(self) -> dict[str, Any]:
        host, port = self.address.rsplit(":", 1)
        meetings = [self.describe(meeting_id) for meeting_id in self.held()]
        return {
            "node_id": self.node_id,
            "running": self.running,
            "connected": self.connected,
            "main_server": self.main_server,
            "node_ip": host,
            "node_port": int(port),
            "start_time": self.started,
            "last_sync": self.last_sync,
            "sync_status": self.sync_status,
            "active_meetings": meetings,
            "meeting_count": len(meetings),
            "storage_usage": sum(meeting["size"] for meeting in meetings),
        }


def create_app(node: LegacyNode) -> FastAPI:
    """Return the deployed node's routes."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(node.loop())
        yield
        task.cancel()
        with contextlib.suppress(httpx.HTTPError):
            await node.post("unregister", {"node_id": node.node_id})
        await node.client.aclose()

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])

    @app.get("/api/v1/meetings/{meeting_id}/download-package")
    @app.get("/api/meetings/{meeting_id}/download")
    async def download(meeting_id: str) -> FileResponse:
        if not node.running:
            raise HTTPException(503, "Node service is stopped")
        path = node.package(meeting_id)
        with contextlib.suppress(httpx.HTTPError):
            if not path.exists() and not await node.pull(meeting_id):
                shutil.rmtree(path.parent, ignore_errors=True)
        if not path.exists():
            raise HTTPException(404, "Meeting package not found")
        return FileResponse(path, media_type="application/zip", filename=f"meeting_{meeting_id}.zip")

    add_management_routes(app, node)
    return app


def add_management_routes(app: FastAPI, node: LegacyNode) -> None:
    """Add the routes for administrators, without authentication, as deployed."""

    @app.get("/", response_class=HTMLResponse)
    async def home() -> str:
        return f"<!doctype html><title>{node.node_id}</title><h1>{node.node_id}</h1>"

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "healthy",
            "node_id": node.node_id,
            "timestamp": time.time(),
            "main_server": node.main_server,
            "storage_path": str(node.storage),
            "sync_interval": node.interval,
        }

    @app.get("/api/status")
    async def status() -> dict[str, Any]:
        return node.status()

    @app.get("/api/config")
    async def config() -> dict[str, Any]:
        return {"main_server": node.main_server, "node_address": node.address, "sync_interval": node.interval}

    @app.post("/api/config")
    async def configure(changes: dict[str, Any]) -> dict[str, Any]:
        node.main_server = str(changes.get("main_server", node.main_server)).rstrip("/")
        node.connected = False
        return await config()

    @app.post("/api/service/start")
    async def start() -> dict[str, str]:
        node.running = True
        return {"status": "success"}

    @app.post("/api/service/stop")
    async def stop() -> dict[str, str]:
        node.running = False
        return {"status": "success"}


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="tests.fakes.legacy_node", description=__doc__)
    parser.add_argument("--main-server", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--node-address", default="", help="default 127.0.0.1:PORT")
    parser.add_argument("--storage-path", type=Path, required=True)
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between syncs and heartbeats")
    parser.add_argument("--node-id", default="legacy-node")
    options = parser.parse_args()
    options.storage_path.mkdir(parents=True, exist_ok=True)
    address = options.node_address or f"127.0.0.1:{options.port}"
    node = LegacyNode(options.main_server, address, options.storage_path, options.interval, options.node_id)
    uvicorn.run(
        create_app(node),
        host="127.0.0.1",
        port=options.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
