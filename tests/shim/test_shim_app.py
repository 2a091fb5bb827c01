"""The app's routes, called as a server calls them, under asyncio and under Trio."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from master_shim import DirectoryPackages, MasterShim, MasterShimMiddleware
from master_shim.errors import FolderMissing
from store.manifest import Manifest
from tests.support.packages import make_documents, make_package
from tests.support.shim_app import API, DATA, beat, client_of, put

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_client_is_sent_to_the_node_that_holds_the_current_version(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        old = put(tmp_path, "m.zip", b"old")
        async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
            url = f"{API}/meetings/m/download-package"
            assert (await client.get(url)).content == b"old"
            await beat(client, "n1", {"m": old})
            answer = await client.get(url)
            assert answer.status_code == 302
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["access-control-allow-origin"] == "*"
            where = answer.headers["location"]
            assert re.fullmatch(rf"http://n1:8001{url}\?v={old}&t=[0-9a-f]{{16}}", where)
            new = put(tmp_path, "m.zip", b"new")
            answer = await client.get(url)
            assert (answer.status_code, answer.content) == (200, b"new")
            await beat(client, "n1", {"m": old}, filling=[new])
            assert (await client.get(url)).status_code == 200
            await beat(client, "n1", {"m": new})
            assert f"v={new}&" in (await client.get(url)).headers["location"]

    anyio.run(main, backend=backend)


async def test_head_looks_and_counts_nobody(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    shim = MasterShim(DirectoryPackages(tmp_path))
    async with client_of(shim) as client:
        url = f"{API}/meetings/m/download-package"
        answer = await client.head(url)
        assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, str(len(DATA)), b"")
        await beat(client, "n1", {"m": digest})
        for _ in range(9):
            answer = await client.head(url)
            assert answer.headers["location"] == f"http://n1:8001{url}?v={digest}"
        await client.head(f"{API}/meetings/m/download-nodes-info")
        assert [node.assigned_units for node in shim.registry.nodes(0)] == [0]


async def test_nodes_info_lists_two_or_three_nodes_or_else_the_master(tmp_path: Path) -> None:
    digest = put(tmp_path, "m 1.zip")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        url = f"{API}/meetings/m%201/download-nodes-info"
        own = "http://master.lan:8000/api/v1/meetings/m%201/download-package"
        assert (await client.get(url)).json() == [{"ip": "master.lan:8000", "download_url": own}]
        for number in range(5):
            await beat(client, f"n{number}", {"m 1": digest})
        entries = (await client.get(url)).json()
        assert len(entries) == 3
        for entry in entries:
            assert set(entry) == {"ip", "download_url"}
            assert entry["download_url"] == f"http://{entry['ip']}/api/v1/meetings/m%201/download-package"
        assert (await client.get(f"{API}/meetings/none/download-nodes-info")).status_code == 404


async def test_a_manifest_is_canonical_compressed_and_not_sent_twice(tmp_path: Path) -> None:
    package = make_package(tmp_path / "m.zip", make_documents(30, 20_000))
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        url = f"{API}/meetings/m/manifest"
        plain = await client.get(url, headers={"Accept-Encoding": "identity"})
        manifest = Manifest.from_json(plain.content)
        assert (manifest.digest, manifest.size, manifest.to_json()) == (package.digest, package.size, plain.content)
        assert plain.headers["etag"] == f'"{package.digest}"'
        async with client.stream("GET", url, headers={"Accept-Encoding": "gzip"}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(raw) == plain.content
        for tag in (plain.headers["etag"], answer.headers["etag"]):
            again = await client.get(url, headers={"If-None-Match": tag})
            assert (again.status_code, again.content) == (304, b"")
        assert {"accept-encoding"} == {item.headers["vary"].lower() for item in (plain, answer, again)}
        assert (await client.get(f"{API}/meetings/unknown/manifest")).status_code == 404


async def test_what_a_node_reads_to_find_peers(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        url = f"{API}/packages/{digest}/nodes"
        assert (await client.get(url)).json() == []
        await beat(client, "n1", {"m": digest})
        await beat(client, "n2", {}, filling=[digest])
        await beat(client, "n3", {}, protocol=0, active_meetings=[{"id": "m", "title": ""}], synced_meetings=["m"])
        assert (await client.get(url)).json() == [
            {"node_id": "n1", "address": "n1:8001", "filling": False},
            {"node_id": "n2", "address": "n2:8001", "filling": True},
        ]
        assert (await client.get(f"{API}/packages/x/nodes")).status_code == 404


async def test_the_lists_of_nodes_are_those_of_the_deployed_master(tmp_path: Path) -> None:
    now = 1000.0
    async with client_of(MasterShim(DirectoryPackages(tmp_path), clock=lambda: now)) as client:
        meetings = [{"id": "m", "title": "One"}, {"id": "k", "title": "Two"}]
        await beat(client, "n1", {}, active_meetings=meetings)
        body = {"node_id": "n2", "address": "no-colon", "status": "online"}
        answer = await client.post(f"{API}/nodes/register", json=body)
        assert answer.json() == {"status": "success", "message": "Node n2 registered"}
        now += 10
        entries = (await client.get(f"{API}/nodes/list")).json()
        assert [entry["node_id"] for entry in entries] == ["n1", "n2"]
        assert entries[0]["active_meeting"] == "One, Two"
        assert entries[0]["active_meetings"] == meetings
        assert (entries[0]["status"], entries[0]["uptime"]) == ("online", 10.0)
        assert "active_meeting" not in entries[1]
        assert (await client.get(f"{API}/nodes/available")).json() == {"count": 1, "nodes": ["n1:8001"]}
        now += 20
        assert (await client.get(f"{API}/nodes/list")).json() == []


async def test_a_heartbeat_answer_has_what_old_and_new_nodes_read(tmp_path: Path) -> None:
    put(tmp_path, "m.zip")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        # The package was not read yet, and a heartbeat does not wait for that.
        assert "token" not in (await beat(client, "n1", {})).json()
        token = (await client.get(f"{API}/meetings/status/token")).json()["id"]
        answer = (await beat(client, "n1", {})).json()
        assert (answer["status"], answer["token"], answer["next_seconds"], answer["protocol"]) == (
            "success",
            token,
            5.0,
            1,
        )
        assert isinstance(answer["timestamp"], float)


async def test_the_token_is_derived_from_what_is_there(tmp_path: Path) -> None:
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:

        async def token() -> str:
            status = (await client.get(f"{API}/meetings/status/token")).json()
            node = (await client.get(f"{API}/meetings/status/node")).json()
            assert node["id"] == status["id"]
            assert [item["id"] for item in node["active_meetings"]] == [item["id"] for item in status["meetings"]]
            return str(status["id"])

        assert await token() == "none"
        put(tmp_path, "m.zip", b"1")
        seen = [await token()]
        put(tmp_path, "k.zip", b"1")
        seen.append(await token())
        put(tmp_path, "m.zip", b"2")
        seen.append(await token())
        put(tmp_path, "m.json", json.dumps({"title": "T"}).encode())
        seen.append(await token())
        (tmp_path / "k.zip").unlink()
        seen.append(await token())
        assert len(set(seen)) == 5
        put(tmp_path, "m.zip", b"2")  # written again with the same bytes
        assert await token() == seen[-1]
        async with client_of(MasterShim(DirectoryPackages(tmp_path))) as restarted:
            assert (await restarted.get(f"{API}/meetings/status/token")).json()["id"] == seen[-1]


async def test_a_callable_finds_packages_and_leaves_the_status_to_the_master(tmp_path: Path) -> None:
    digest = put(tmp_path, "file")
    asked = []

    async def find(meeting_id: str) -> Path | None:
        asked.append(meeting_id)
        return tmp_path / "file" if meeting_id == "m" else None

    async with client_of(MasterShim(find)) as client:
        assert (await client.get(f"{API}/packages/{digest}")).status_code == 404  # not seen yet
        assert (await client.get(f"{API}/meetings/m/download-package")).content == DATA
        assert (await client.get(f"{API}/packages/{digest}")).content == DATA
        assert (await client.get(f"{API}/meetings/ended/download-package")).status_code == 404
        for path in ("status/node", "status/token", "m/data"):
            assert (await client.get(f"{API}/meetings/{path}")).status_code == 404
        assert "token" not in (await beat(client, "n1", {"m": digest})).json()
        assert (await client.get(f"{API}/meetings/m/download-package")).status_code == 302
        # A hostile id never reaches the callable.
        for name in ("..", ".", "%00", "a%0ab", "%5c", "x" * 10_000, "%EF%BC%8E"):
            assert (await client.get(f"{API}/meetings/{name}/manifest")).status_code == 404
        assert set(asked) == {"m", "ended"}
    with pytest.raises(TypeError):
        MasterShim(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(FolderMissing):
        DirectoryPackages(tmp_path / "missing")


async def test_wrong_messages_are_answered_with_a_detail(tmp_path: Path) -> None:
    good = {"node_id": "n", "address": "h:1", "status": "online"}
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:

        async def post(action: str, **content: Any) -> tuple[int, Any]:
            answer = await client.post(f"{API}/nodes/{action}", **content)
            assert answer.headers["access-control-allow-origin"] == "*"
            return answer.status_code, answer.json()["detail"]

        status, detail = await post("register", json={"node_id": "n"})
        assert status == 422
        assert detail == [{"type": "missing", "loc": ["body", "address"], "msg": "Field required"}]
        for body in (b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"node_id":1,"address":"h:1"}', b"[" * 100_000):
            for action in ("register", "heartbeat", "unregister"):
                status, detail = await post(action, content=body)
                assert status == 422
                assert detail
        for field in ("node_id", "address"):
            assert (await post("register", json={**good, field: ""}))[0] == 400
        assert (await post("heartbeat", json={**good, "synced_meetings": "m"}))[0] == 422
        assert (await post("unregister", json={"node_id": "unknown"}))[0] == 404
        assert (await post("register", content=b" " * (1024 * 1024 + 1)))[0] == 413

        assert (await client.get(f"{API}/nodes/list")).json() == []
        answer = await client.post(f"{API}/nodes/register", json={**good, "more": [1]})  # extra fields are ignored
        assert answer.status_code == 200


async def test_a_body_without_a_length_is_read_no_further_than_the_limit(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    given = 0

    async def receive() -> dict[str, Any]:
        nonlocal given
        given += 1
        return {"type": "http.request", "body": bytes(100_000), "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": f"{API}/nodes/heartbeat", "headers": [], "client": None}
    await MasterShim(DirectoryPackages(tmp_path))(scope, receive, send)
    assert sent[0]["status"] == 413
    assert given == 11


async def test_methods_preflight_and_unknown_paths(tmp_path: Path) -> None:
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        answer = await client.delete(f"{API}/nodes/list")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        answer = await client.get(f"{API}/nodes/register")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")
        headers = {"Access-Control-Request-Headers": "range, if-range"}
        answer = await client.options(f"{API}/meetings/m/download-package", headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "GET" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "range, if-range"
        answer = await client.options(f"{API}/nodes/list", headers={"Access-Control-Request-Headers": "a\tb: c"})
        assert "access-control-allow-headers" not in answer.headers
        answer = await client.get("/nothing/here")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/health")).json()["status"] == "healthy"


async def test_an_error_of_ours_is_logged_and_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def find(meeting_id: str) -> Path | None:
        raise ZeroDivisionError("secret")

    async with client_of(MasterShim(find)) as client:
        answer = await client.get(f"{API}/meetings/m/download-package")
        assert (answer.status_code, answer.json()) == (500, {"detail": "Internal server error"})
    assert "secret" in caplog.text


async def test_the_start_gate_can_ask_which_nodes_are_missing(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    shim = MasterShim(DirectoryPackages(tmp_path))
    async with client_of(shim) as client:
        await beat(client, "n1", {"m": digest})
        await beat(client, "n2", {"m": "0" * 64})
        assert await shim.nodes_missing("m") == ["n2"]
        await beat(client, "n2", {"m": digest})
        assert await shim.nodes_missing("m") == []


async def wrapped_app(scope: Any, receive: Any, send: Any) -> None:
    """A master of which only the answer 418 is known, and what scopes it was given."""
    scope["seen"].append(scope["type"])
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b"own"})


async def test_the_middleware_takes_what_concerns_nodes_and_downloads(tmp_path: Path) -> None:
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
        # The master has a token of its own, which is not ours to tell.
        assert "token" not in (await beat(client, "n1", {})).json()
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


async def test_a_lifespan_is_answered_politely(tmp_path: Path) -> None:
    incoming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def receive() -> Any:
        return next(incoming)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await MasterShim(DirectoryPackages(tmp_path))({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
