"""`master-shim serve` as a process: hostile clients, downloads, a deployed node, the exit."""

from __future__ import annotations

import json
import random
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from blake3 import blake3

from tests.support.packages import zip_of
from tests.support.processes import peak_memory
from tests.support.shim_app import API
from tests.support.shim_process import ServedShim, serve_shim
from tests.support.waiting import eventually_blocking

if TYPE_CHECKING:
    from tests.support.processes import Spawner

HOSTILE = [
    "..", ".", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..", "%00", "m%00", "m%00.zip", "x" * 10_000, "",
    "%20", "m%0d%0aX-Evil:1", "%EF%BC%8E%EF%BC%8E", "%E2%80%A4", "%E2%88%95etc", "%ff%fe", "%ED%A0%80", "/m", "m/",
    "m;x", "m.zip", "secret", "..%2fsecret", "%c0%ae%c0%ae", "M",
]  # fmt: skip


def test_hostile_ids_get_404_or_400(served: ServedShim) -> None:
    for name in HOSTILE:
        for action in ("download-package", "download-package-direct", "download-nodes-info", "manifest", "data"):
            status, body = served.get(f"{API}/meetings/{name}/{action}")
            assert status in {400, 404}, (name, action)
            assert status == 400 or set(json.loads(body)) == {"detail"}
    for digest in ("", "..", "0" * 64, "%00", "A" * 64, "0" * 10_000):
        assert served.get(f"{API}/packages/{digest}")[0] in {400, 404}
    assert served.get(f"{API}/meetings/m/manifest")[0] == 200
    assert served.process.stop() == 0
    assert "Traceback" not in served.process.log()


def test_a_request_target_may_name_the_server(served: ServedShim, folder: Path) -> None:
    assert served.get(f"http://m{API}/meetings/m/download-package") == (200, (folder / "m.zip").read_bytes())


def test_a_proxy_on_this_machine_tells_the_scheme_and_the_host(spawn: Spawner, folder: Path) -> None:
    request = (
        f"GET http://meetings.lan{API}/meetings/m/download-nodes-info HTTP/1.1\r\nHost: m\r\nConnection: close\r\n"
        "X-Forwarded-Proto: https\r\n\r\n"
    ).encode()
    for arguments, url in (
        ((), "https://meetings.lan:443"),
        (("--trusted-proxies", "192.0.2.1,10.0.0.0/8"), "http://meetings.lan:80"),
    ):
        status, body = serve_shim(spawn, folder, *arguments).raw(request)
        assert status == 200
        assert json.loads(body)[0]["download_url"] == f"{url}{API}/meetings/m/download-package"


def test_an_endless_body_is_refused(served: ServedShim) -> None:
    head = f"POST {API}/nodes/heartbeat HTTP/1.1\r\nHost: m\r\nConnection: close\r\n".encode()
    assert served.raw(head + b"Content-Length: 99999999\r\n\r\n" + b"x" * 1000)[0] == 413
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    assert served.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 17)[0] == 413


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_client_that_stops_reading_does_not_delay_the_exit(spawn: Spawner, folder: Path, number: int) -> None:
    (folder / "big.zip").write_bytes(zip_of(bytes(64 * 1024 * 1024)))
    served = serve_shim(spawn, folder)
    readers = []
    for _ in range(3):
        reader = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        reader.sendall(f"GET {API}/meetings/big/download-package HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        assert reader.recv(1000).startswith(b"HTTP/1.1 200")
        readers.append(reader)
    idle = socket.create_connection(("127.0.0.1", served.port), timeout=20)
    served.process.send_signal(number)
    assert served.process.wait(within=10) == 0
    assert "Traceback" not in served.process.log()
    for reader in (*readers, idle):
        reader.close()


def test_a_running_download_is_finished_before_the_exit(served: ServedShim, folder: Path) -> None:
    data = zip_of(random.Random(6).randbytes(30 * 1024 * 1024))
    (folder / ".new").write_bytes(data)
    (folder / ".new").rename(folder / "big.zip")
    received = bytearray()
    begun = threading.Event()

    def download() -> None:
        with httpx.stream("GET", f"{served.url}{API}/meetings/big/download-package", trust_env=False) as answer:
            for part in answer.iter_raw():
                received.extend(part)
                begun.set()

    thread = threading.Thread(target=download)
    thread.start()
    assert begun.wait(20)
    assert served.process.stop() == 0
    thread.join()
    assert blake3(bytes(received)).digest() == blake3(data).digest()


def test_memory_is_limited_with_many_downloads(served: ServedShim, folder: Path) -> None:
    (folder / ".new").write_bytes(zip_of(bytes(64 * 1024 * 1024)))
    (folder / ".new").rename(folder / "big.zip")
    assert served.get(f"{API}/meetings/big/manifest")[0] == 200
    readers = []
    for _ in range(100):
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", served.port))
        reader.sendall(f"GET {API}/meetings/big/download-package HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        readers.append(reader)
    for reader in readers:
        reader.settimeout(20)
        assert reader.recv(10)
    # A window of 1 MiB for each would take 100 MB.
    assert peak_memory(served.process.pid) < 130 * 1024 * 1024
    for reader in readers:
        reader.close()


def test_a_download_is_cut_off_if_its_package_is_overwritten(served: ServedShim, folder: Path) -> None:
    data = zip_of(random.Random(8).randbytes(48 * 1024 * 1024))
    (folder / ".new").write_bytes(data)
    (folder / ".new").rename(folder / "big.zip")
    with httpx.stream("GET", f"{served.url}{API}/meetings/big/download-package", trust_env=False) as answer:
        assert answer.headers["content-length"] == str(len(data))
        parts = answer.iter_raw()
        received = bytearray(next(parts))
        with (folder / "big.zip").open("r+b") as file:
            file.write(bytes(len(data)))

        def read_on() -> None:
            for part in parts:
                received.extend(part)

        with pytest.raises(httpx.RemoteProtocolError):
            read_on()
    assert received == data[: len(received)]
    served.process.wait_line("an answer was cut off")
    assert "Traceback" not in served.process.log()


def test_a_deployed_node_registers_and_serves(served: ServedShim, folder: Path, fakes: object) -> None:
    node = fakes.node(served.url, node_id="old node")  # type: ignore[attr-defined]

    def offered() -> str | None:
        answer = httpx.get(f"{served.url}{API}/meetings/m/download-package", trust_env=False)
        return answer.headers.get("location")

    location = eventually_blocking(offered, within=20, what="the node to be offered")
    assert location.startswith(f"http://{node.address}{API}/meetings/m/download-package?v=")
    data = (folder / "m.zip").read_bytes()
    assert httpx.get(location, trust_env=False).content == data
    entries = httpx.get(f"{served.url}{API}/nodes/list", trust_env=False).json()
    assert [(entry["node_id"], entry["active_meeting"]) for entry in entries] == [("old node", "m")]
    info = httpx.get(f"{served.url}{API}/meetings/m/download-nodes-info", trust_env=False).json()
    assert [entry["ip"] for entry in info] == [node.address]


EARLY = """
import sys
import master_shim.registry as registry
registry.LATE_SECONDS, registry.NODE_TIMEOUT_SECONDS = 0.5, 1.5
from master_shim.cli import main
main(sys.argv[1:])
"""
"""The command, with times that a test can wait for."""


def test_silent_nodes_are_logged_while_no_request_comes(spawn: Spawner, folder: Path) -> None:
    listen = ("--host", "127.0.0.1", "--port", "0")
    served = ServedShim(spawn.python("-c", EARLY, "serve", "--packages", str(folder), *listen, name="serve"))
    body = {"node_id": "n1", "address": "127.0.0.1:9", "protocol": 1}
    assert httpx.post(f"{served.url}{API}/nodes/heartbeat", json=body, trust_env=False).status_code == 200
    served.process.wait_line(r"\[INFO\] master_shim.activity: node n1 at 127.0.0.1:9 joined$")
    served.process.wait_line(r"\[WARNING\] master_shim.activity: node n1 at 127.0.0.1:9 is late")
    served.process.wait_line(r"\[WARNING\] master_shim.activity: node n1 at 127.0.0.1:9 is lost")
    assert served.process.stop() == 0
