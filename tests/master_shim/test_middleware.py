"""The shim around a master."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from master_shim import DirectoryPackages, MasterShim, MasterShimMiddleware
from tests.support.shim_app import API, client_of, heartbeat, put

if TYPE_CHECKING:
    pass


async def wrapped_app(scope: Any, receive: Any, send: Any) -> None:
    """A master that answers everything by 418 and records the scopes it is given."""
    scope["seen"].append(scope["type"])
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b"own"})


async def test_the_shim_answers_nodes_and_downloads_and_the_master_the_rest(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    app = MasterShimMiddleware(wrapped_app, shim=MasterShim(DirectoryPackages(tmp_path)))
    seen: list[str] = []

    async def with_seen(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "seen": seen}, receive, send)

    async with client_of(with_seen) as client:
        for path in (
            "nodes/list",
            "nodes/available",
            "meetings/m/manifest",
            f"packages/{digest}",
            "meetings/m/download-package",
            "meetings/m/download-package-direct",
            "meetings/m/download-nodes-info",
            f"packages/{digest}/nodes",
        ):
            assert (await client.get(f"{API}/{path}")).status_code == 200
        assert (await client.get(f"{API}/meetings/unknown/download-package")).status_code == 404
        # The token is the master's own.
        assert "token" not in (await heartbeat(client, "n1", {})).json()
        for path in (
            "/",
            "/health",
            "/docs",
            f"{API}/meetings/status/token",
            f"{API}/meetings/status/node",
            f"{API}/meetings/m/data",
            f"{API}/meetings/m",
        ):
            assert (await client.get(path)).status_code == 418
    for kind in ("lifespan", "websocket"):
        await with_seen({"type": kind, "path": f"{API}/nodes/list"}, None, None)
    assert seen[-2:] == ["lifespan", "websocket"]
