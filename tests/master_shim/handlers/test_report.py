"""The routes for administrators: the status and the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from master_shim import DirectoryPackages, MasterShim, MasterShimMiddleware
from master_shim.handlers import report
from tests.support.shim_app import API, DATA, client_of, heartbeat, put


async def status_of(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get(f"{API}/nodes/status")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def metrics_of(client: httpx.AsyncClient, path: str = "/metrics") -> dict[str, float]:
    answer = await client.get(path)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {"".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


async def test_the_status_names_nodes_and_meetings(tmp_path: Path) -> None:
    now, digest = 50.0, put(tmp_path, "m.zip")
    put(tmp_path, "empty.zip", b"")
    async with client_of(MasterShim(DirectoryPackages(tmp_path), clock=lambda: now)) as client:
        before = await status_of(client)
        assert [(m["id"], m["version"], m["reason"]) for m in before["meetings"]] == [
            ("empty", None, ""),
            ("m", None, ""),
        ]
        await client.get(f"{API}/meetings/status/token")  # reads the packages
        await heartbeat(client, "n1", {"m": digest}, load={"active_downloads": 3, "max_downloads": 9})
        await heartbeat(client, "n2", {}, filling=[digest])
        legacy = {"active_meetings": [{"id": "m", "title": ""}], "synced_meetings": ["m"], "protocol": 0}
        await heartbeat(client, "old", {}, **legacy)
        await heartbeat(client, "n3", {"m": digest}, load={"draining": True})
        now = 52.0
        status = await status_of(client)
    assert (status["uptime"], status["nodes_lost"], status["reason"]) == (2.0, 0, "")
    assert status["meetings"] == [
        {
            "id": "empty",
            "title": "empty",
            "version": None,
            "size": None,
            "reason": "a package has 1 to 9007199254740991 bytes, not 0",
            "nodes": 0,
            "filling": 0,
            "fetching": [],
        },
        {
            "id": "m",
            "title": "m",
            "version": digest,
            "size": len(DATA),
            "reason": "",
            "nodes": 2,
            "filling": 1,
            "fetching": [{"node_id": "n2", "source": ""}],
        },
    ]
    assert [(n["node_id"], n["state"], n["offered"], n["packages"], n["filling"]) for n in status["nodes"]] == [
        ("n1", "online", True, 1, 0),
        ("n2", "online", True, 0, 1),
        ("old", "online", True, 1, 0),
        ("n3", "draining", False, 1, 0),
    ]
    assert [status["nodes"][0][key] for key in ("silent", "active_downloads", "max_downloads")] == [2.0, 3, 9]


async def test_the_status_and_the_metrics_tell_who_fetches_from_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, other = put(tmp_path, 'the "board".zip'), put(tmp_path, "other.zip", b"PK other")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        await client.get(f"{API}/meetings/status/token")  # reads the packages
        await heartbeat(client, "n1", {}, filling=[digest], sources={digest: ""})
        await heartbeat(client, "n2", {}, filling=[digest, other], sources={digest: "n1", other: ""})
        await heartbeat(client, "n3", {}, filling=[digest], sources={digest: "n2"})
        await heartbeat(client, "without peers", {}, filling=[digest])
        await heartbeat(client, "drains", {}, filling=[digest], sources={digest: "n3"}, load={"draining": True})
        found = {meeting["id"]: meeting["fetching"] for meeting in (await status_of(client))["meetings"]}
        sources = {"n1": "", "n2": "n1", "n3": "n2", "without peers": "", "drains": "n3"}
        assert found == {
            'the "board"': [{"node_id": name, "source": source} for name, source in sources.items()],
            "other": [{"node_id": "n2", "source": ""}],
        }
        metrics = await metrics_of(client)
        assert {name: value for name, value in metrics.items() if "fetching" in name} == {
            'master_shim_fetching_nodesthe "board"master': 2,
            'master_shim_fetching_nodesthe "board"node': 3,
            "master_shim_fetching_nodesothermaster": 1,
            "master_shim_fetching_nodesothernode": 0,
        }
        monkeypatch.setattr(report, "MAX_FETCHING", 2)
        meetings = (await status_of(client))["meetings"]
        assert [(len(m["fetching"]), m["filling"]) for m in meetings] == [(1, 1), (2, 5)]


async def test_the_status_without_a_list_of_meetings_says_why(tmp_path: Path) -> None:
    async def find(meeting_id: str) -> None:
        return None

    async with client_of(MasterShim(find)) as client:
        status = await status_of(client)
        assert (status["meetings"], status["reason"]) == (None, "the master's own application finds the packages")
        assert "master_shim_meetingsready" not in await metrics_of(client)
    folder = tmp_path / "packages"
    folder.mkdir()
    async with client_of(MasterShim(DirectoryPackages(folder))) as client:
        folder.rmdir()
        status = await status_of(client)
        assert (status["meetings"], status["reason"]) == (None, "The list of meetings cannot be read")
        assert "master_shim_meetingsready" not in await metrics_of(client)


async def test_the_metrics_count_nodes_and_downloads(tmp_path: Path) -> None:
    now, digest = 0.0, put(tmp_path, "m.zip")
    put(tmp_path, "empty.zip", b"")
    async with client_of(MasterShim(DirectoryPackages(tmp_path), clock=lambda: now)) as client:
        assert (await client.get(f"{API}/meetings/m/download-package")).content == DATA
        await heartbeat(client, "lost", {"m": digest})
        now = 31.0
        await heartbeat(client, "n1", {"m": digest})
        await heartbeat(client, "n2", {"m": digest}, load={"draining": True})
        for _ in range(2):
            assert (await client.get(f"{API}/meetings/m/download-nodes-info")).status_code == 200
        assert (await client.get(f"{API}/meetings/m/download-package")).status_code == 302
        for method in (client.head, client.options):  # nobody gets a package by these
            await method(f"{API}/meetings/m/download-package")
            await method(f"{API}/meetings/m/download-nodes-info")
        metrics = await metrics_of(client)
        start = metrics.pop("master_shim_start_time_seconds")
        assert start > 1e9
        assert metrics == {
            "master_shim_nodesregistered": 0,
            "master_shim_nodesonline": 1,
            "master_shim_nodesdraining": 1,
            "master_shim_nodeslate": 0,
            "master_shim_nodes_lost_total": 1,
            "master_shim_nodes_in_conflict": 0,
            "master_shim_downloads_totalredirected": 1,
            "master_shim_downloads_totaloffered": 2,
            "master_shim_downloads_totalsent_here": 1,
            "master_shim_sends_active": 0,
            "master_shim_sent_bytes_total": len(DATA),
            "master_shim_meetingsready": 1,
            "master_shim_meetingsunread": 1,
        }
        assert (await client.head("/metrics")).content == b""


async def test_as_middleware_the_master_keeps_its_own_metrics(tmp_path: Path) -> None:
    async def master(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"the master's own"})

    async with client_of(MasterShimMiddleware(master, shim=MasterShim(DirectoryPackages(tmp_path)))) as client:
        assert (await client.get("/metrics")).content == b"the master's own"
        assert (await metrics_of(client, f"{API}/nodes/metrics"))["master_shim_nodesonline"] == 0
        assert (await status_of(client))["nodes"] == []
