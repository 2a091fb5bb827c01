"""The shim as a guest: what the application of the master answers itself, under the servers of the frameworks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import PlainTextResponse

from master_shim import DirectoryPackages, MasterShim, MasterShimMiddleware
from tests.support.packages import zip_of
from tests.support.processes import ROOT, free_port
from tests.support.shim_app import API, client_of, put

if TYPE_CHECKING:
    from tests.support.processes import Spawner

BIN = Path(sys.executable).parent
PACKAGE = zip_of(b"document")

FASTAPI = """
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse

from master_shim import MasterShim, MasterShimMiddleware

app = FastAPI()

class Closed(Exception):
    pass

@app.exception_handler(Closed)
async def closed(request, error):
    return JSONResponse({"closed": True}, 451)

@app.get("/own/")
async def own():
    return "own"

@app.get("/other")
async def other():
    return "other"

def find(meeting_id):
    if meeting_id == "forbidden":
        raise HTTPException(403, "not for you", {"X-Reason": "test"})
    if meeting_id == "closed":
        raise Closed
    if meeting_id == "fault":
        raise ZeroDivisionError("secret")
    return Path(__file__).with_name("file") if meeting_id == "m" else None

shim = MasterShim(find)
"""
QUART = """
from pathlib import Path

from quart import abort
from quart_trio import QuartTrio

from master_shim import MasterShim, MasterShimMiddleware

app = QuartTrio(__name__)

async def find(meeting_id):
    if meeting_id == "forbidden":
        abort(403, "not for you")
    return Path(__file__).with_name("file") if meeting_id == "m" else None

app.asgi_app = MasterShimMiddleware(app.asgi_app, shim=MasterShim(find))
"""
MOUNT = 'app.mount("/", shim)'
MIDDLEWARE = "app.add_middleware(MasterShimMiddleware, shim=shim)"
UVICORN = ("uvicorn", "--port")
HYPERCORN = ("hypercorn", "--bind")
TRIO = ("hypercorn", "-k", "trio", "--bind")


def serve(spawn: Spawner, folder: Path, app: str, server: tuple[str, ...]) -> httpx.Client:
    (folder / "file").write_bytes(PACKAGE)
    (folder / "host_app.py").write_text(app)
    port = free_port()
    program, *options = server
    where = f"127.0.0.1:{port}" if options[-1] == "--bind" else str(port)
    # Both programs look for modules in the current folder only if they are told to.
    env = {"PYTHONPATH": f"{ROOT}:{folder}"}
    spawn(BIN / program, "host_app:app", *options, where, env=env, name="host").wait_port(port)
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, TRIO])
@pytest.mark.parametrize("how", [MOUNT, MIDDLEWARE])
def test_a_plain_function_finds_packages_and_its_exceptions_are_answers(
    spawn: Spawner, tmp_path: Path, how: str, server: tuple[str, ...]
) -> None:
    with serve(spawn, tmp_path, f"{FASTAPI}\n{how}\n", server) as client:
        assert client.get(f"{API}/meetings/m/download-package").content == PACKAGE
        assert client.get(f"{API}/meetings/unknown/manifest").status_code == 404
        answer = client.get(f"{API}/meetings/forbidden/download-package")
        assert (answer.status_code, answer.json()) == (403, {"detail": "not for you"})
        assert answer.headers["x-reason"] == "test"
        # Starlette calls middleware outside its handlers for exceptions.
        answer = client.get(f"{API}/meetings/closed/manifest")
        wanted = (451, {"closed": True}) if how == MOUNT else (500, {"detail": "Internal server error"})
        assert (answer.status_code, answer.json()) == wanted
        answer = client.get(f"{API}/meetings/fault/manifest")
        assert (answer.status_code, answer.json()) == (500, {"detail": "Internal server error"})


def test_the_exceptions_of_quart_are_answers(spawn: Spawner, tmp_path: Path) -> None:
    with serve(spawn, tmp_path, QUART, TRIO) as client:
        assert client.get(f"{API}/meetings/m/download-package").content == PACKAGE
        answer = client.get(f"{API}/meetings/forbidden/download-package")
        assert (answer.status_code, answer.json()) == (403, {"detail": "not for you"})
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN])
def test_the_application_answers_what_is_no_route_of_the_mounted_shim(
    spawn: Spawner, tmp_path: Path, server: tuple[str, ...]
) -> None:
    after = '@app.get("/after")\nasync def after():\n    return "after"\n'
    with serve(spawn, tmp_path, f"{FASTAPI}\n{MOUNT}\n{after}", server) as client:
        answer = client.get("/own")
        assert (answer.status_code, answer.headers["location"]) == (307, f"{client.base_url}/own/")
        answer = client.get("/other/?a=1")
        assert (answer.status_code, answer.headers["location"]) == (307, f"{client.base_url}/other?a=1")
        assert client.get("/own/").json() == "own"
        answer = client.post("/other")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        assert client.get("/after").json() == "after"
        answer = client.get("/nothing")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
        assert client.post(f"{API}/meetings/m/download-package").status_code == 405
        assert client.get("/health").json()["status"] == "healthy"


def test_below_a_prefix_the_shim_answers_every_path(spawn: Spawner, tmp_path: Path) -> None:
    with serve(spawn, tmp_path, f"{FASTAPI}\napp.mount('/own', shim)\n", UVICORN) as client:
        assert client.get(f"/own{API}/meetings/m/download-package").content == PACKAGE
        answer = client.get("/own/nothing")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


async def test_a_websocket_is_left_to_the_application(tmp_path: Path) -> None:
    app = FastAPI()
    app.mount("/", MasterShim(DirectoryPackages(tmp_path)))

    @app.websocket("/after")
    async def after(websocket: WebSocket) -> None:
        await websocket.accept()

    for path, answer in (("/after", "websocket.accept"), (f"{API}/nodes/list", "websocket.close")):
        sent: list[str] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any, sent: list[str] = sent) -> None:
            sent.append(message["type"])

        await app({"type": "websocket", "path": path, "headers": [], "query_string": b""}, receive, send)
        assert sent[0] == answer


class Deny:
    """Middleware that lets nobody pass."""

    def __init__(self, app: Any) -> None:
        pass

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("who are you?", 401)(scope, receive, send)


def deny() -> None:
    raise HTTPException(401)


@pytest.mark.parametrize(
    ("order", "status"),
    [
        (("mount",), 200),  # dependencies do not apply
        (("shim",), 200),
        (("deny", "mount"), 401),
        (("mount", "deny"), 401),
        (("deny", "shim"), 200),
        (("shim", "deny"), 401),
    ],
)
async def test_which_middleware_is_asked_before_the_shim(tmp_path: Path, order: tuple[str, ...], status: int) -> None:
    put(tmp_path, "m.zip")
    app = FastAPI(dependencies=[Depends(deny)])
    shim = MasterShim(DirectoryPackages(tmp_path))
    for step in order:
        if step == "mount":
            app.mount("/", shim)
        elif step == "shim":
            app.add_middleware(MasterShimMiddleware, shim=shim)
        else:
            app.add_middleware(Deny)
    async with client_of(app) as client:
        assert (await client.get(f"{API}/meetings/m/download-package")).status_code == status
