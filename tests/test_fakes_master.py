"""The fake deployed master has the quirks of the deployed one."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from blake3 import blake3

from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually, eventually_blocking

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.packages import Package


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return make_package(tmp_path / "m1.zip", make_documents(5, 40_000))


@pytest.fixture
def master(fakes: FakeFactory, tmp_path: Path, package: Package) -> RunningMaster:
    return fakes.master(tmp_path)


def beat(master: RunningMaster, node_id: str, active: list[str], synced: list[str], **more: Any) -> httpx.Response:
    body = {
        "node_id": node_id,
        "address": "127.0.0.1:9",
        "status": "online",
        "active_meetings": [{"id": meeting_id, "title": f"Title {meeting_id}"} for meeting_id in active],
        "synced_meetings": synced,
        **more,
    }
    return post(master, "nodes/heartbeat", body)


def post(master: RunningMaster, path: str, body: Any) -> httpx.Response:
    return httpx.post(f"{master.url}/api/v1/{path}", json=body, trust_env=False)


def get(master: RunningMaster, path: str) -> httpx.Response:
    return httpx.get(f"{master.url}/api/v1/{path}", trust_env=False)


def token(master: RunningMaster) -> str:
    found: str = get(master, "meetings/status/token").json()["id"]
    return found


def opened(master: RunningMaster, meeting_id: str = "m1") -> None:
    eventually_blocking(lambda: master.gate_opened(meeting_id), what=f"the gate of {meeting_id}")


def test_direct_download_is_chunked_and_knows_no_ranges(master: RunningMaster, package: Package):
    started = master.start("m1")
    answer = httpx.get(master.direct_url("m1"), headers={"Range": "bytes=10-20"}, trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["content-disposition"] == 'attachment; filename="meeting_m1_pdfs.zip"'
    assert not {"content-length", "etag", "accept-ranges", "last-modified"} & set(answer.headers)
    assert blake3(answer.content).hexdigest() == package.digest == started["digest"]
    assert httpx.head(master.direct_url("m1"), trust_env=False).status_code == 405
    state = master.state()
    assert (state["downloads_begun"], state["downloads_finished"], state["bytes_sent"]) == (
        1,
        1,
        package.size,
    )


def test_body_by_lines_has_the_same_bytes(master: RunningMaster, package: Package):
    master.start("m1")
    master.behave(body="lines")
    assert blake3(httpx.get(master.direct_url("m1"), trust_env=False).content).hexdigest() == package.digest


def test_unknown_and_unstarted_meetings_are_404_with_detail(master: RunningMaster):
    for meeting_id in ("m1", "nowhere"):
        for what in ("download-package-direct", "download-package", "data", "download-nodes-info"):
            answer = get(master, f"meetings/{meeting_id}/{what}")
            assert answer.status_code == 404
            assert answer.json()["detail"]


def test_master_is_up(master: RunningMaster):
    assert httpx.get(master.url, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("mode", "members"),
    [("error-txt", ["ERROR.txt"]), ("readme-only", ["README.txt"])],
    ids=["error", "readme"],
)
def test_failure_traps_are_a_200_with_a_zip(master: RunningMaster, mode: str, members: list[str]):
    master.start("m1")
    master.behave(mode=mode)
    answer = httpx.get(master.direct_url("m1"), trust_env=False)
    assert answer.status_code == 200
    assert "content-length" not in answer.headers
    assert zipfile.ZipFile(io.BytesIO(answer.content)).namelist() == members


def test_wrong_bodies(master: RunningMaster, package: Package):
    master.start("m1")
    url = master.direct_url("m1")
    master.behave(mode="empty")
    assert httpx.get(url, trust_env=False).content == b""
    master.behave(mode="not-zip")
    assert httpx.get(url, trust_env=False).text.startswith("<!doctype")
    master.behave(mode="truncated")
    assert len(httpx.get(url, trust_env=False).content) == package.size // 2
    master.behave(mode="cut")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(url, trust_env=False)
    master.behave(mode="500")
    assert httpx.get(url, trust_env=False).status_code == 500
    for mode in ("stall", "hang"):
        master.behave(mode=mode)
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(url, trust_env=False, timeout=0.3)
    master.behave(mode="500", modes={"m1": "ok"})
    assert len(httpx.get(url, trust_env=False).content) == package.size
    assert master.state()["downloads_finished"] == 2


def test_wrong_control_is_refused(master: RunningMaster):
    for body in ({"mode": "surprise"}, {"colour": "red"}):
        assert httpx.post(f"{master.url}/_control/behaviour", json=body, trust_env=False).status_code == 400
    assert httpx.post(f"{master.url}/_control/meetings/nowhere/start", trust_env=False).status_code == 404


def test_speed_limit_holds_a_download_back(master: RunningMaster, package: Package):
    master.start("m1")
    master.behave(bytes_per_second=20_000)
    with httpx.stream("GET", master.direct_url("m1"), trust_env=False) as answer:
        next(answer.iter_raw())
        # 200 kB at 20 kB/s: it cannot be complete after the first bytes.
        state = master.state()
        assert (state["downloads_begun"], state["downloads_finished"]) == (1, 0)
        assert state["bytes_sent"] < package.size / 2


def test_registration_checks_what_the_deployed_master_checks(master: RunningMaster):
    good = {"node_id": "n1", "address": "127.0.0.1:9", "status": "online", "surprise": 1}
    answer = post(master, "nodes/register", good)
    assert answer.json() == {"status": "success", "message": "Node n1 registered"}
    assert post(master, "nodes/register", {"node_id": "n1"}).status_code == 422
    assert post(master, "nodes/register", {**good, "address": ""}).status_code == 400
    assert post(master, "nodes/unregister", {"node_id": "n1"}).json()["status"] == "success"
    assert post(master, "nodes/unregister", {"node_id": "n1"}).status_code == 404
    assert [entry["node_id"] for entry in master.state()["registrations"]] == ["n1"]


def test_heartbeat_registers_an_unknown_node_and_is_logged_whole(master: RunningMaster):
    answer = beat(master, "n1", ["m1", "m2"], ["m1"], load={"active_downloads": 2})
    assert answer.status_code == 200
    assert set(answer.json()) == {"status", "timestamp"}
    (entry,) = get(master, "nodes/list").json()
    assert {"node_id", "address", "status", "last_seen", "uptime"} < set(entry)
    assert entry["active_meeting"] == "Title m1, Title m2"
    (logged,) = master.state()["heartbeats"]
    assert logged["load"] == {"active_downloads": 2}
    assert logged["synced_meetings"] == ["m1"]


def test_an_address_without_port_is_never_offered(master: RunningMaster):
    master.start("m1")
    post(master, "nodes/register", {"node_id": "n1", "address": "localhost", "status": "online"})
    post(master, "nodes/register", {"node_id": "n2", "address": "127.0.0.1:9", "status": "online"})
    assert get(master, "nodes/available").json() == {"count": 1, "nodes": ["127.0.0.1:9"]}
    entries = get(master, "meetings/m1/download-nodes-info").json()
    assert [entry["ip"] for entry in entries] == [master.address, "127.0.0.1:9"]
    assert entries[1]["download_url"] == "http://127.0.0.1:9/api/v1/meetings/m1/download-package"
    answer = get(master, "meetings/m1/download-package")
    assert (answer.status_code, answer.headers["location"]) == (302, entries[1]["download_url"])
    master.behave(redirect=False)
    assert get(master, "meetings/m1/download-package").status_code == 200


async def test_silent_nodes_are_dropped(fakes: FakeFactory, tmp_path: Path):
    master = fakes.master(tmp_path, intervals={"node_timeout": 0.3})
    beat(master, "n1", [], [])
    assert get(master, "nodes/available").json()["count"] == 1
    await eventually(lambda: get(master, "nodes/available").json()["count"] == 0)
    assert get(master, "nodes/list").json() == []


def test_gate_waits_for_every_online_node(master: RunningMaster):
    beat(master, "n1", [], [])
    beat(master, "n2", [], [])
    master.start("m1")
    assert [meeting["id"] for meeting in get(master, "meetings/status/node").json()["active_meetings"]] == ["m1"]
    assert token(master) == "none"
    beat(master, "n1", ["m1"], ["m1"])
    beat(master, "n2", [], ["m1"])  # synced but not active in the same heartbeat: ignored
    eventually_blocking(lambda: master.state()["meetings"]["m1"]["gate"]["missing"] == ["n2"])
    assert token(master) == "none"
    beat(master, "n2", ["m1"], ["m1"])
    opened(master)
    assert token(master) != "none"
    assert get(master, "meetings/m1/data").json()["id"] == token(master)


def test_gate_gives_up(fakes: FakeFactory, tmp_path: Path, package: Package):
    master = fakes.master(tmp_path, intervals={"gate_check": 0.05, "gate_settle": 0.05, "gate_limit": 0.3})
    beat(master, "n1", ["m1"], [])
    master.start("m1")
    opened(master)
    gate = master.state()["meetings"]["m1"]["gate"]
    assert gate["gave_up"]
    assert gate["missing"] == ["n1"]


def test_without_nodes_the_gate_opens_alone(master: RunningMaster):
    master.start("m1")
    opened(master)
    assert get(master, "meetings/m1/data").json()["status"] == "进行中"


def test_data_has_no_id_before_the_gate_opens(fakes: FakeFactory, tmp_path: Path, package: Package):
    master = fakes.master(tmp_path, intervals={"gate_check": 0.1})
    beat(master, "n1", ["m1"], [])
    master.start("m1")
    assert "id" not in get(master, "meetings/m1/data").json()


def test_restart_keeps_the_id_and_makes_a_new_package_with_the_same_documents(
    master: RunningMaster, package: Package, tmp_path: Path
):
    assert master.start("m1")["digest"] == package.digest
    first = zipfile.ZipFile(io.BytesIO(httpx.get(master.direct_url("m1"), trust_env=False).content))
    opened(master)
    before = token(master)
    again = master.restart("m1")
    assert again["digest"] != package.digest
    assert [meeting["id"] for meeting in get(master, "meetings/status/node").json()["active_meetings"]] == ["m1"]
    second = zipfile.ZipFile(io.BytesIO(httpx.get(master.direct_url("m1"), trust_env=False).content))
    assert second.namelist()[0] == "README.txt"
    assert second.namelist() == first.namelist()
    assert second.read("README.txt") != first.read("README.txt")
    assert second.read(second.namelist()[1]) == first.read(first.namelist()[1])
    assert all(member.compress_type == zipfile.ZIP_DEFLATED for member in second.infolist())
    assert not any(member.flag_bits & 0x08 for member in second.infolist()), "sizes are in the local headers"
    opened(master)
    assert token(master) not in {"none", before}
    # A replaced source is served unchanged.
    newer = make_package(tmp_path / "m1.zip", make_documents(5, 40_000, seed="other"))
    assert master.restart("m1")["digest"] == newer.digest


def test_restart_clears_what_nodes_had_said(master: RunningMaster):
    beat(master, "n1", ["m1"], ["m1"])
    master.start("m1")
    eventually_blocking(lambda: master.state()["meetings"]["m1"]["gate"]["missing"] == ["n1"])
    beat(master, "n1", ["m1"], ["m1"])
    opened(master)


def test_end_takes_the_meeting_away(master: RunningMaster):
    master.start("m1")
    opened(master)
    master.end("m1")
    assert token(master) == "none"
    assert get(master, "meetings/status/node").json()["active_meetings"] == []
    assert get(master, "meetings/m1/data").status_code == 404


def test_variants_of_the_status_answers(master: RunningMaster, tmp_path: Path):
    make_package(tmp_path / "m2.zip", make_documents(1, 1000))
    master.start("m1")
    assert [set(entry) for entry in get(master, "meetings/status/token").json()["meetings"]] == [
        {"id", "title", "time"}
    ]
    master.start("m2")
    master.end("m2")
    master.behave(token_list="all", status_node_shape="single")
    listed = get(master, "meetings/status/token").json()["meetings"]
    assert {entry["id"]: entry["status"] for entry in listed} == {"m1": "进行中", "m2": "已结束"}
    single = get(master, "meetings/status/node").json()
    assert single["active_meeting"] == {"id": "m1", "title": "Meeting m1"}
    assert "active_meetings" not in single
    master.behave(status_node=False)
    assert get(master, "meetings/status/node").status_code == 404


def test_a_killed_master_can_run_again_on_its_port(master: RunningMaster):
    beat(master, "n1", [], [])
    master.kill()
    with pytest.raises(httpx.ConnectError):
        httpx.get(master.url, trust_env=False)
    master.run_again("m1")
    assert get(master, "nodes/list").json() == []
    assert get(master, "meetings/m1/download-package").status_code == 200
