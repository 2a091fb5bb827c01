"""The routes that nodes call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from master_shim import DirectoryPackages, MasterShim
from tests.support.shim_app import API, client_of, heartbeat, put

if TYPE_CHECKING:
    pass


async def test_the_lists_of_nodes_have_the_form_of_the_deployed_master(tmp_path: Path) -> None:
    now = 1000.0
    async with client_of(MasterShim(DirectoryPackages(tmp_path), clock=lambda: now)) as client:
        meetings = [{"id": "m", "title": "One"}, {"id": "k", "title": "Two"}]
        await heartbeat(client, "n1", {}, active_meetings=meetings)
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


async def test_only_nodes_list_names_a_node_with_https(tmp_path: Path) -> None:
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        await heartbeat(client, "n1", {})
        body = {"node_id": "n2", "address": "n2:8001", "status": "online", "scheme": "https"}
        assert (await client.post(f"{API}/nodes/register", json=body)).status_code == 200
        entries = (await client.get(f"{API}/nodes/list")).json()
        assert [(entry["address"], entry["scheme"]) for entry in entries] == [
            ("n1:8001", "http"), ("n2:8001", "https"),
        ]  # fmt: skip
        # Its readers put http:// before each address.
        assert (await client.get(f"{API}/nodes/available")).json() == {"count": 1, "nodes": ["n1:8001"]}


async def test_a_heartbeat_answer_has_the_fields_of_legacy_nodes_and_ours(tmp_path: Path) -> None:
    put(tmp_path, "m.zip")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        # The package was not read yet, and a heartbeat does not wait for it.
        assert "token" not in (await heartbeat(client, "n1", {})).json()
        token = (await client.get(f"{API}/meetings/status/token")).json()["id"]
        answer = (await heartbeat(client, "n1", {})).json()
        assert (answer["status"], answer["token"], answer["next_seconds"], answer["protocol"]) == (
            "success",
            token,
            5.0,
            1,
        )
        assert isinstance(answer["timestamp"], float)


async def test_invalid_messages_are_refused_with_a_detail(tmp_path: Path) -> None:
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
