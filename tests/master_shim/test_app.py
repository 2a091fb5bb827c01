"""`MasterShim` as an application: what it accepts, unknown routes, faults, the lifespan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from master_shim import DirectoryPackages, MasterShim
from master_shim.errors import FolderMissing
from tests.support.shim_app import API, DATA, client_of, heartbeat, put

if TYPE_CHECKING:
    pass

PREFLIGHT = {
    "Origin": "http://tablet",
    "Access-Control-Request-Method": "GET",
    "Access-Control-Request-Headers": "range, if-range",
    "Access-Control-Request-Private-Network": "true",
}
PLAIN = {"access-control-allow-origin", "access-control-expose-headers"}
"""The CORS fields of an answer to anything but a preflight."""


async def test_a_callable_finds_packages_and_leaves_the_status_to_the_master(tmp_path: Path) -> None:
    digest = put(tmp_path, "file")
    requested = []

    async def find(meeting_id: str) -> Path | None:
        requested.append(meeting_id)
        return tmp_path / "file" if meeting_id == "m" else None

    async with client_of(MasterShim(find)) as client:
        assert (await client.get(f"{API}/packages/{digest}")).status_code == 404  # not requested before
        assert (await client.get(f"{API}/meetings/m/download-package")).content == DATA
        assert (await client.get(f"{API}/packages/{digest}")).content == DATA
        assert (await client.get(f"{API}/meetings/ended/download-package")).status_code == 404
        for path in ("status/node", "status/token", "m/data"):
            assert (await client.get(f"{API}/meetings/{path}")).status_code == 404
        assert "token" not in (await heartbeat(client, "n1", {"m": digest})).json()
        assert (await client.get(f"{API}/meetings/m/download-package")).status_code == 302
        # A hostile id never reaches the callable.
        for name in ("..", ".", "%00", "a%0ab", "%5c", "x" * 10_000, "%EF%BC%8E"):
            assert (await client.get(f"{API}/meetings/{name}/manifest")).status_code == 404
        assert set(requested) == {"m", "ended"}
    with pytest.raises(TypeError):
        MasterShim(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(FolderMissing):
        DirectoryPackages(tmp_path / "missing")


async def test_methods_preflight_and_unknown_paths(tmp_path: Path) -> None:
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        answer = await client.delete(f"{API}/nodes/list")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        answer = await client.get(f"{API}/nodes/register")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")
        answer = await client.options(f"{API}/meetings/m/download-package", headers=PREFLIGHT)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "GET" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "range, if-range"
        assert answer.headers["access-control-allow-private-network"] == "true"
        for answer in (await client.options(f"{API}/nodes/list"), await client.get("/", headers=PREFLIGHT)):
            assert {name for name in answer.headers if name.startswith("access-control-")} == PLAIN
        answer = await client.get("/nothing/here")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/health")).json()["status"] == "healthy"


async def test_a_fault_is_logged_and_its_text_not_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def find(meeting_id: str) -> Path | None:
        raise ZeroDivisionError("secret")

    async with client_of(MasterShim(find)) as client:
        answer = await client.get(f"{API}/meetings/m/download-package")
        assert (answer.status_code, answer.json()) == (500, {"detail": "Internal server error"})
    assert "secret" in caplog.text


async def test_which_nodes_do_not_hold_a_meeting(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    shim = MasterShim(DirectoryPackages(tmp_path))
    async with client_of(shim) as client:
        await heartbeat(client, "n1", {"m": digest})
        await heartbeat(client, "n2", {"m": "0" * 64})
        assert await shim.nodes_missing("m") == ["n2"]
        await heartbeat(client, "n2", {"m": digest})
        assert await shim.nodes_missing("m") == []


async def test_a_lifespan_is_acknowledged(tmp_path: Path) -> None:
    incoming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def receive() -> Any:
        return next(incoming)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await MasterShim(DirectoryPackages(tmp_path))({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
