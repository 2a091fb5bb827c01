"""The three ways to use the shim in a master, each under its example's server, with downloads and a node."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.packages import zip_of
from tests.support.processes import ROOT, free_port

if TYPE_CHECKING:
    from tests.support.processes import Process, Spawner

API = "/api/v1"
BIN = Path(sys.executable).parent
DATA = zip_of(random.Random(9).randbytes(3_000_000))
STARTS = {
    "fastapi_mount": ("uvicorn", "examples.fastapi_mount:app", "--port"),
    "fastapi_middleware": ("uvicorn", "examples.fastapi_middleware:app", "--port"),
    "quart_middleware": ("hypercorn", "-k", "trio", "examples.quart_middleware:app", "--bind"),
}


def start(spawn: Spawner, name: str, packages: Path) -> tuple[Process, str]:
    port = free_port()
    server, *arguments = STARTS[name]
    where = f"127.0.0.1:{port}" if arguments[-1] == "--bind" else str(port)
    process = spawn(BIN / server, *arguments, where, env={"PACKAGES": str(packages)}, name=name)
    process.wait_port(port)
    return process, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("name", STARTS)
def test_an_example(spawn: Spawner, tmp_path: Path, name: str) -> None:
    assert f"examples.{name}:app" in (ROOT / "examples" / f"{name}.py").read_text()
    (tmp_path / "m.zip").write_bytes(DATA)
    process, url = start(spawn, name, tmp_path)
    download = f"{url}{API}/meetings/m/download-package"
    with httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.get(download)
        assert (answer.status_code, answer.content) == (200, DATA)
        digest = answer.headers["etag"].strip('"')
        answer = client.get(f"{url}{API}/packages/{digest}", headers={"Range": "bytes=100-199"})
        assert (answer.status_code, answer.content) == (206, DATA[100:200])

        node = {"node_id": "n", "address": "127.0.0.1:9", "status": "online"}
        assert client.post(f"{url}{API}/nodes/register", json=node).status_code == 200
        beat = {**node, "protocol": 1, "packages": {"m": digest}}
        assert client.post(f"{url}{API}/nodes/heartbeat", json=beat).json()["status"] == "success"
        answer = client.get(download)
        assert answer.status_code == 302
        assert answer.headers["location"].startswith(
            f"http://127.0.0.1:9{API}/meetings/m/download-package?v={digest}&t="
        )
        assert answer.headers["access-control-allow-origin"] == "*"
        info = client.get(f"{url}{API}/meetings/m/download-nodes-info").json()
        assert [entry["ip"] for entry in info] == ["127.0.0.1:9"]
        assert client.post(f"{url}{API}/nodes/unregister", json={"node_id": "n"}).status_code == 200
        assert client.get(f"{url}{API}/meetings/%2e%2e/download-package").status_code == 404
        assert client.get(f"{url}{API}/meetings/other/download-package").status_code == 404

        status = client.get(f"{url}{API}/meetings/status/token").json()
        assert [meeting["id"] for meeting in status["meetings"]] == ["m"]
        if name == "fastapi_middleware":
            assert status["id"] == "token-of-1"  # the master's own answer
            assert client.get(f"{url}{API}/meetings/status/node").status_code == 404
        if name == "fastapi_mount":
            assert client.get(f"{url}{API}/about").json()["name"] == "a master that had no nodes"
            assert client.get(f"{url}{API}/meetings/status/node").json()["id"] == status["id"]
    process.stop()
    assert "Traceback" not in process.log()


def test_a_shim_mounted_under_a_prefix(spawn: Spawner, tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(DATA)
    (tmp_path / "prefixed.py").write_text(
        "from fastapi import FastAPI\n"
        "from master_shim import DirectoryPackages, MasterShim\n"
        "app = FastAPI()\n"
        f"app.mount('/master', MasterShim(packages=DirectoryPackages({str(tmp_path)!r})))\n"
    )
    port = free_port()
    process = spawn(
        BIN / "uvicorn", "prefixed:app", "--app-dir", tmp_path, "--port", str(port), env={"PYTHONPATH": str(ROOT)}
    )
    process.wait_port(port)
    url = f"http://127.0.0.1:{port}/master{API}/meetings/m"
    assert httpx.get(f"{url}/download-package", trust_env=False).content == DATA
    info = httpx.get(f"{url}/download-nodes-info", trust_env=False).json()
    assert info == [{"ip": f"127.0.0.1:{port}", "download_url": f"{url}/download-package"}]
