"""`master-shim serve` as a real process: how it starts, what it says, what hostile clients get, how it ends."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest
from blake3 import blake3

from tests.support.processes import peak_memory
from tests.support.waiting import eventually_blocking

if TYPE_CHECKING:
    from tests.support.processes import Process, Spawner

API = "/api/v1"
MASTER = (sys.executable, "-m", "master_shim", "serve")
WIDE = {"COLUMNS": "200"}
HOSTILE = [
    "..", ".", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..", "%00", "m%00", "m%00.zip", "x" * 10_000, "",
    "%20", "m%0d%0aX-Evil:1", "%EF%BC%8E%EF%BC%8E", "%E2%80%A4", "%E2%88%95etc", "%ff%fe", "%ED%A0%80", "/m", "m/",
    "m;x", "m.zip", "secret", "..%2fsecret", "%c0%ae%c0%ae", "M",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.zip").write_bytes(b"not in the folder")
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "m.zip").write_bytes(random.Random(5).randbytes(400_000))
    return tmp_path / "packages"


class Served:
    def __init__(self, process: Process) -> None:
        self.process = process
        self.port = int(process.wait_line(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def raw(self, request: bytes, *, within: float = 20.0) -> tuple[int, bytes]:
        """Send bytes as they are; return the status and everything after the headers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=within) as connection:
            connection.sendall(request)
            data = b""
            while part := connection.recv(65536):
                data += part
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body

    def get(self, path: str) -> tuple[int, bytes]:
        return self.raw(f"GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode())


def serve(spawn: Spawner, folder: Path, *arguments: str) -> Served:
    command = ("-m", "master_shim", "serve", "--packages", str(folder), "--host", "127.0.0.1", "--port", "0")
    return Served(spawn.python(*command, *arguments, name="serve"))


@pytest.fixture
def served(spawn: Spawner, folder: Path) -> Served:
    return serve(spawn, folder)


def test_it_says_where_it_listens_and_what_it_found(served: Served, folder: Path) -> None:
    served.process.wait_line(r"^  m  m$")
    assert str(folder) in served.process.log()
    answer = httpx.get(f"{served.url}{API}/meetings/m/download-package", trust_env=False)
    assert answer.content == (folder / "m.zip").read_bytes()
    assert served.process.stop() == 0
    # Neither an access log nor a word at the end.
    assert "GET" not in served.process.log()
    assert len(served.process.log().splitlines()) == 3


def test_hostile_ids_get_404_or_400(served: Served) -> None:
    for name in HOSTILE:
        for action in ("download-package", "download-package-direct", "download-nodes-info", "manifest", "data"):
            status, body = served.get(f"{API}/meetings/{name}/{action}")
            assert status in {400, 404}, (name, action)
            assert status == 400 or set(json.loads(body)) == {"detail"}
    for digest in ("", "..", "0" * 64, "%00", "A" * 64, "0" * 10_000):
        assert served.get(f"{API}/packages/{digest}")[0] in {400, 404}
    # Nothing of it was trouble.
    assert served.get(f"{API}/meetings/m/manifest")[0] == 200
    assert served.process.stop() == 0
    assert "Traceback" not in served.process.log()


def test_a_body_that_never_ends_is_refused(served: Served) -> None:
    head = f"POST {API}/nodes/heartbeat HTTP/1.1\r\nHost: m\r\nConnection: close\r\n".encode()
    assert served.raw(head + b"Content-Length: 99999999\r\n\r\n" + b"x" * 1000)[0] == 413
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    assert served.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 17)[0] == 413


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_reader_that_stalls_does_not_keep_it_alive(spawn: Spawner, folder: Path, number: int) -> None:
    with (folder / "big.zip").open("wb") as file:
        file.write(b"PK")
        file.truncate(64 * 1024 * 1024)
    served = serve(spawn, folder)
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


def test_a_download_that_goes_on_is_finished_before_the_end(served: Served, folder: Path) -> None:
    data = random.Random(6).randbytes(30 * 1024 * 1024)
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


def test_many_downloads_stay_within_the_read_ahead(served: Served, folder: Path) -> None:
    size = 64 * 1024 * 1024
    with (folder / ".new").open("wb") as file:
        file.write(b"PK")
        file.truncate(size)
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
    # 100 MB would be a window of 1 MiB for each.
    assert peak_memory(served.process.pid) < 130 * 1024 * 1024
    for reader in readers:
        reader.close()


def test_a_package_overwritten_while_it_is_sent_is_cut_off(served: Served, folder: Path) -> None:
    data = random.Random(8).randbytes(48 * 1024 * 1024)
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


def test_wrong_usage_is_said_in_words(spawn: Spawner, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, words in (
            (("--packages", str(folder / "missing")), "does not exist"),
            (("--packages", str(folder / "m.zip")), "is not a folder"),
            (("--packages", str(folder), "--host", "127.0.0.1", "--port", port), "another program listens there"),
            (("--packages", str(folder), "--port", "99999"), "0 to 65535"),
            (("--packages", str(folder), "--port", "x"), "port"),
            (("--packages", str(folder), "--host", "no.such.host.invalid"), "cannot listen on no.such.host"),
            ((), "packages"),
        ):
            process = spawn(sys.executable, "-m", "master_shim", "serve", *arguments)
            assert process.wait(within=30) == 2
            assert words in process.log().lower()
            assert "Traceback" not in process.log()


def test_an_empty_folder_is_waited_for(spawn: Spawner, tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    served = serve(spawn, tmp_path / "packages")
    served.process.wait_line("no meeting in progress yet")
    assert json.loads(served.get(f"{API}/meetings/status/token")[1])["id"] == "none"
    (tmp_path / "new").write_bytes(b"PK")
    (tmp_path / "new").rename(tmp_path / "packages" / "会议 1.zip")
    assert served.get(f"{API}/meetings/{quote('会议 1')}/download-package") == (200, b"PK")
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait() == 0


def test_the_deployed_node_registers_beats_is_offered_and_serves(served: Served, folder: Path, fakes: object) -> None:
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


def test_the_help_says_how_packages_are_named() -> None:
    done = subprocess.run([*MASTER, "--help"], capture_output=True, text=True, check=True, env=os.environ | WIDE)
    assert "MEETING-ID.zip" in done.stdout
