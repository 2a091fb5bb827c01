"""The deployed master, as a process: `python -m tests.fakes.legacy_master --packages FOLDER --port 0`.

It prints `listening on http://127.0.0.1:PORT`. Each `<quoted id>.zip` in the folder is a meeting that has not
started; `<quoted id>.json` (`{"title": ...}`) has its title. Tests and curl control it:

    curl -X POST $MASTER/_control/meetings/m1/start      (also end, restart)
    curl -X POST $MASTER/_control/behaviour -d '{"mode": "truncated", "bytes_per_second": 1e6}'
    curl $MASTER/_control/state
    curl -X POST $MASTER/_control/reset
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel

from tests.fakes.master_body import package_body, substitute
from tests.fakes.master_state import IN_PROGRESS, NO_TOKEN, Behaviour, Intervals, MasterState, Meeting

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class NodeRegistration(BaseModel):
    """Extra fields are ignored, as by default in pydantic."""

    node_id: str
    address: str
    status: str = "online"


class NodeHeartbeat(NodeRegistration):
    active_meetings: list[dict[str, Any]] = []
    synced_meetings: list[str] = []


class NodeGoodbye(BaseModel):
    node_id: str


class Counted:
    """Counts all requests but those for control, including refused ones."""

    def __init__(self, app: ASGIApp, state: MasterState) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/_control/"):
            self.state.counters.count(self.state.counters.requests, f"{scope['method']} {scope['path']}")
        await self.app(scope, receive, send)


def create_app(state: MasterState) -> FastAPI:
    """Return the deployed master's routes over `state`."""
    app = FastAPI()
    app.add_middleware(Counted, state=state)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])

    @app.get("/")
    async def home() -> dict[str, str]:
        return {"message": "paperless meeting master"}

    add_node_routes(app, state)
    add_status_routes(app, state)
    add_package_routes(app, state)
    add_control_routes(app, state)
    return app


def add_node_routes(app: FastAPI, state: MasterState) -> None:
    """Add the routes for registration and heartbeats."""

    @app.post("/api/v1/nodes/register")
    async def register(body: NodeRegistration) -> dict[str, str]:
        if not (body.node_id and body.address and body.status):
            raise HTTPException(400, "node_id, address and status must not be empty")
        state.register(body.node_id, body.address, body.status)
        state.counters.registrations.append({"at": time.time(), **body.model_dump()})
        return {"status": "success", "message": f"Node {body.node_id} registered"}

    @app.post("/api/v1/nodes/heartbeat")
    async def heartbeat(body: NodeHeartbeat, request: Request) -> dict[str, Any]:
        if not (body.node_id and body.address and body.status):
            raise HTTPException(400, "node_id, address and status must not be empty")
        extra = {key: value for key, value in (await request.json()).items() if key not in body.model_fields_set}
        state.heartbeat({**extra, **body.model_dump()})
        return {"status": "success", "timestamp": time.time()}

    @app.post("/api/v1/nodes/unregister")
    async def unregister(body: NodeGoodbye) -> dict[str, str]:
        if state.nodes.pop(body.node_id, None) is None:
            raise HTTPException(404, f"Node {body.node_id} not found")
        state.counters.unregistrations.append(body.node_id)
        return {"status": "success", "message": f"Node {body.node_id} unregistered"}

    @app.get("/api/v1/nodes/list")
    async def nodes_list() -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = []
        for node in state.online():
            entry: dict[str, Any] = {
                "node_id": node.node_id,
                "address": node.address,
                "status": node.status,
                "last_seen": node.seen,
                "uptime": time.time() - node.since,
            }
            if node.active_meetings:
                titles = (str(meeting.get("title", "")) for meeting in node.active_meetings)
                entry["active_meeting"] = ", ".join(titles)
                entry["active_meetings"] = node.active_meetings
            listed.append(entry)
        return listed

    @app.get("/api/v1/nodes/available")
    async def available() -> dict[str, Any]:
        nodes = state.offered()
        return {"count": len(nodes), "nodes": nodes}


def add_status_routes(app: FastAPI, state: MasterState) -> None:
    """Add the routes that nodes and tablets poll."""

    @app.get("/api/v1/meetings/status/node")
    async def status_node() -> dict[str, Any]:
        if not state.behaviour.status_node:
            raise HTTPException(404, "Not Found")
        active = [{"id": meeting.id, "title": meeting.title} for meeting in state.in_progress()]
        if state.behaviour.status_node_shape == "single":
            shown: dict[str, Any] = {"active_meeting": active[0] if active else None}
        else:
            shown = {"active_meetings": active}
        return {"id": state.token, **shown, "timestamp": time.time()}

    @app.get("/api/v1/meetings/status/token")
    async def status_token() -> dict[str, Any]:
        every = state.behaviour.token_list == "all"
        meetings: list[dict[str, str]] = []
        for meeting in state.meetings.values() if every else state.in_progress():
            entry = {"id": meeting.id, "title": meeting.title, "time": meeting.time}
            meetings.append({**entry, "status": meeting.status} if every else entry)
        return {"id": state.token, "meetings": meetings}

    @app.get("/api/v1/meetings/{meeting_id}/data")
    async def data(meeting_id: str) -> dict[str, Any]:
        meeting = in_progress(state, meeting_id)
        answer: dict[str, Any] = {
            "meeting_id": meeting.id,
            "title": meeting.title,
            "intro": "",
            "time": meeting.time,
        }
        if state.token != NO_TOKEN:
            answer["id"] = state.token
        return {**answer, "status": meeting.status, "agenda_items": []}


def in_progress(state: MasterState, meeting_id: str) -> Meeting:
    """Return a meeting in progress. Raises a 404."""
    meeting = state.meetings.get(meeting_id)
    if meeting is None or meeting.status != IN_PROGRESS:
        raise HTTPException(404, "Meeting not found or not in progress")
    return meeting


def add_package_routes(app: FastAPI, state: MasterState) -> None:
    """Add the downloads. Only GET is declared, so HEAD is answered 405."""

    @app.get("/api/v1/meetings/{meeting_id}/download-nodes-info")
    async def nodes_info(meeting_id: str, request: Request) -> list[dict[str, str]]:
        in_progress(state, meeting_id)
        path = f"/api/v1/meetings/{quote(meeting_id, safe='')}/download-package"
        addresses = [request.url.netloc, *state.offered()]
        return [{"ip": address, "download_url": f"http://{address}{path}"} for address in addresses]

    @app.get("/api/v1/meetings/{meeting_id}/download-package")
    async def download(meeting_id: str) -> Response:
        in_progress(state, meeting_id)
        nodes = state.offered() if state.behaviour.redirect else []
        if not nodes:
            return await send(meeting_id)
        chosen = random.choice(nodes)
        state.counters.count(state.counters.redirects, chosen)
        path = f"/api/v1/meetings/{quote(meeting_id, safe='')}/download-package"
        return RedirectResponse(f"http://{chosen}{path}", 302)

    @app.get("/api/v1/meetings/{meeting_id}/download-package-direct")
    async def direct(meeting_id: str) -> Response:
        return await send(meeting_id)

    async def send(meeting_id: str) -> Response:
        meeting = state.meetings.get(meeting_id)
        behaviour = state.behaviour
        mode = behaviour.mode_of(meeting_id)
        if meeting is None or meeting.package is None or mode == "404":
            raise HTTPException(404, "Meeting not found")
        state.counters.downloads_begun += 1
        state.counters.count(state.counters.by_meeting, meeting_id)
        if mode == "500":
            raise HTTPException(500, "Failed to build the package")
        if mode == "hang":
            await asyncio.sleep(3600)
        headers = {"content-disposition": f'attachment; filename="meeting_{quote(meeting_id)}_pdfs.zip"'}
        if (whole := substitute(mode)) is not None:
            body = one_piece(whole)
        else:
            body = package_body(meeting, mode, behaviour.body, behaviour.bytes_per_second, state.counters)
        return StreamingResponse(body, media_type="application/zip", headers=headers)


async def one_piece(whole: bytes) -> Any:
    """Yield a substitute body, which also has no Content-Length."""
    if whole:
        yield whole


def add_control_routes(app: FastAPI, state: MasterState) -> None:
    """Add the routes for tests, which the deployed master does not have."""

    def known(meeting_id: str) -> None:
        state.look()
        if meeting_id not in state.meetings:
            raise HTTPException(404, f"no {meeting_id}.zip in {state.packages}")

    @app.post("/_control/meetings/{meeting_id}/start")
    @app.post("/_control/meetings/{meeting_id}/restart")
    async def start(meeting_id: str) -> dict[str, Any]:
        known(meeting_id)
        meeting = await state.start(meeting_id)
        return {"id": meeting.id, "digest": meeting.digest, "size": meeting.size}

    @app.post("/_control/meetings/{meeting_id}/end")
    async def end(meeting_id: str) -> dict[str, Any]:
        known(meeting_id)
        meeting = state.end(meeting_id)
        return {"id": meeting.id, "digest": meeting.digest, "size": meeting.size}

    @app.post("/_control/behaviour")
    async def behaviour(request: Request) -> dict[str, Any]:
        try:
            state.behaviour.change(await request.json())
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        return dataclasses.asdict(state.behaviour)

    @app.post("/_control/reset")
    async def reset() -> dict[str, str]:
        state.counters = type(state.counters)()
        return {"status": "success"}

    @app.get("/_control/state")
    async def show() -> dict[str, Any]:
        counters = dataclasses.asdict(state.counters)
        return {
            **counters,
            "heartbeats": list(counters["heartbeats"]),
            "token": state.token,
            "nodes": {node.node_id: dataclasses.asdict(node) for node in state.online()},
            "meetings": {
                meeting.id: {
                    "status": meeting.status,
                    "digest": meeting.digest,
                    "size": meeting.size,
                    "builds": meeting.builds,
                    "gate": meeting.gate,
                }
                for meeting in state.meetings.values()
            },
            "behaviour": dataclasses.asdict(state.behaviour),
        }


def arguments() -> argparse.Namespace:
    """Parse the command line. Intervals default to the deployed ones."""
    parser = argparse.ArgumentParser(prog="tests.fakes.legacy_master", description=__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--work", type=Path, help="folder for built packages (default: a temporary folder)")
    parser.add_argument("--start", action="append", default=[], metavar="ID", help="put a meeting in progress")
    for name, field in Intervals.__dataclass_fields__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=field.default, metavar="S")
    return parser.parse_args()


async def serve(options: argparse.Namespace, work: Path) -> None:
    """Serve until a signal."""
    intervals = Intervals(*(getattr(options, name) for name in Intervals.__dataclass_fields__))
    state = MasterState(options.packages, work, intervals, Behaviour())
    for meeting_id in options.start:
        await state.start(meeting_id)
    listener = socket.create_server(("127.0.0.1", options.port), backlog=1024)
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(create_app(state), log_level="warning", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="legacy-master-", dir=options.work) as work:
        asyncio.run(serve(options, Path(work)))


if __name__ == "__main__":
    main()
