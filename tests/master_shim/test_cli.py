"""The command `master-shim`: help, usage errors, what it prints."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest
from blake3 import blake3

from tests.support.locales import environments
from tests.support.packages import zip_of
from tests.support.shim_app import API
from tests.support.shim_process import ServedShim, serve_shim

if TYPE_CHECKING:
    from tests.fakes.running import FakeFactory
    from tests.support.processes import Spawner

MASTER = (sys.executable, "-m", "master_shim", "serve")
WIDE = {"COLUMNS": "200"}


def test_the_start_prints_the_address_and_the_meetings(served: ServedShim, folder: Path) -> None:
    served.process.wait_line(r"^  m  m$")
    assert str(folder) in served.process.log()
    answer = httpx.get(f"{served.url}{API}/meetings/m/download-package", trust_env=False)
    assert answer.content == (folder / "m.zip").read_bytes()
    assert served.process.stop() == 0
    # No access log: the package, the download that no node could serve, and one line at the exit.
    lines = served.process.log().splitlines()
    assert len(lines) == 6, lines
    assert "INFO] master_shim.versions: package " in lines[3]
    assert lines[4].endswith("the master sends the package of m itself, because no node is registered")
    assert "stopping" in lines[5]


def test_a_meeting_is_found_when_its_package_is_added(spawn: Spawner, tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    served = serve_shim(spawn, tmp_path / "packages")
    served.process.wait_line("no meeting in progress yet")
    assert json.loads(served.get(f"{API}/meetings/status/token")[1])["id"] == "none"
    (tmp_path / "new").write_bytes(zip_of(b"new"))
    (tmp_path / "new").rename(tmp_path / "packages" / "会议 1.zip")
    assert served.get(f"{API}/meetings/{quote('会议 1')}/download-package") == (200, zip_of(b"new"))
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait() == 0


@pytest.mark.parametrize("env", environments().values(), ids=environments())
def test_names_on_disk_are_utf_8_in_every_locale(spawn: Spawner, tmp_path: Path, env: dict[str, str]) -> None:
    packages = tmp_path / "数据"
    packages.mkdir()
    for name in ("会议", "café"):
        (packages / f"{name}.zip").write_bytes(zip_of(name.encode()))
        (packages / f"{name}.json").write_text(json.dumps({"title": f"“{name}”"}), encoding="utf-8")
    served = serve_shim(spawn, packages, env=env)
    listed = json.loads(served.get(f"{API}/meetings/status/node")[1])["active_meetings"]
    assert listed == [{"id": name, "title": f"“{name}”"} for name in ("café", "会议")]
    for name in ("会议", "café"):
        assert served.get(f"{API}/meetings/{quote(name)}/download-package") == (200, zip_of(name.encode()))
    assert served.get(f"{API}/meetings/{quote('没有')}/download-package")[0] == 404
    assert served.process.stop() == 0
    assert "Traceback" not in served.process.log()


def test_usage_errors_are_explained(spawn: Spawner, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, words in (
            (("--packages", str(folder / "missing")), "does not exist"),
            (("--packages", ""), "the packages folder '' does not exist"),
            (("--packages", str(folder / "m.zip")), "is not a folder"),
            (("--packages", str(folder), "--host", "127.0.0.1", "--port", port), "another program listens there"),
            (("--packages", str(folder), "--port", "99999"), "0 to 65535"),
            (("--packages", str(folder), "--port", "x"), "port"),
            (("--packages", str(folder), "--host", "no.such.host.invalid"), "cannot listen on no.such.host"),
            (("--packages", str(folder), "--trusted-proxies", "proxy.lan"), "'proxy.lan' does not appear to be"),
            ((), "packages"),
        ):
            process = spawn(sys.executable, "-m", "master_shim", "serve", *arguments)
            assert process.wait(within=30) == 2
            assert words in process.log().lower()
            assert "Traceback" not in process.log()


def test_the_version_is_that_of_the_distribution() -> None:
    for program in ("master_shim", "trionode"):
        command = [sys.executable, "-m", program, "--version"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == version("trionode")


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_address_of_ipv6_may_have_brackets(spawn: Spawner, folder: Path, host: str) -> None:
    process = spawn.python(
        "-m", "master_shim", "serve", "--packages", str(folder), "--host", host, "--port", "0", name="serve"
    )
    port = int(process.wait_line(r"listening on http://\[::1\]:(\d+)")[1])
    assert httpx.get(f"http://[::1]:{port}{API}/meetings/m/download-package", trust_env=False).content
    assert process.stop() == 0


def test_every_address_of_a_name_is_listened_on_and_shown(spawn: Spawner, folder: Path) -> None:
    program = (
        "import socket\n"
        "asked = socket.getaddrinfo\n"
        "addresses = '127.0.0.1', '127.0.0.2'\n"
        "socket.getaddrinfo = lambda host, *args, **options: [\n"
        "    each for address in addresses for each in asked(address, *args, **options)\n"
        "]\n"
        "from master_shim.cli import main\n"
        f"main(['serve', '--packages', {str(folder)!r}, '--host', 'localhost', '--port', '0'])\n"
    )
    process = spawn.python("-c", program, name="serve")
    for host in ("127.0.0.1", "127.0.0.2"):
        url = process.wait_line(rf"listening on (http://{host}:\d+)")[1]
        assert httpx.get(f"{url}{API}/meetings/m/download-package", trust_env=False).content
    assert process.stop() == 0


def test_the_help_explains_how_packages_are_named() -> None:
    done = subprocess.run([*MASTER, "--help"], capture_output=True, text=True, check=True, env=os.environ | WIDE)
    assert "MEETING-ID.zip" in done.stdout


def status(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "master_shim", "status", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=os.environ | WIDE)


def test_the_status_for_people_and_as_json(served: ServedShim, folder: Path) -> None:
    package = (folder / "m.zip").read_bytes()
    assert served.get(f"{API}/meetings/m/download-package") == (200, package)
    digest = blake3(package).hexdigest()
    node = {"node_id": "n[red]1", "address": "127.0.0.1:9", "protocol": 1, "packages": {"m": digest}}
    assert httpx.post(f"{served.url}{API}/nodes/heartbeat", json=node, trust_env=False).status_code == 200
    for url in (served.url, f"{served.url}/", served.url.removeprefix("http://")):
        done = status(url)
        assert (done.returncode, done.stderr) == (0, "")
        for words in ("n[red]1", "online", "1, 1 of them get clients", "1 downloads for which no node", digest[:12]):
            assert words in done.stdout
    report = json.loads(status("--json", served.url).stdout)
    assert [(m["id"], m["version"], m["nodes"]) for m in report["meetings"]] == [("m", digest, 1)]


def test_the_status_shows_who_fetches_from_whom(served: ServedShim, folder: Path) -> None:
    digest = blake3((folder / "m.zip").read_bytes()).hexdigest()
    served.get(f"{API}/meetings/status/token")  # reads the package
    long = [f"{number}-".ljust(40, "x") for number in range(12)]
    sources = {
        "n1": "",
        "n2": "n1",
        "n[red]3": "n2",
        "n4": "n2",
        "n5": "holder",
        long[0]: "n4",
        **dict(pairwise(reversed(long))),
    }
    for name, source in sources.items():
        node = {
            "node_id": name,
            "address": f"{name}:9",
            "protocol": 1,
            "filling": [digest],
            "sources": {digest: source},
        }
        assert httpx.post(f"{served.url}{API}/nodes/heartbeat", json=node, trust_env=False).status_code == 200
    printed = status(served.url).stdout
    assert "n[red]3 <- n2 <- n1 <- master" in printed
    assert "n5 <- holder" in printed
    assert all(name in printed.split("n5 <-")[1] for name in ("n4 <- n2", *long)), "folded, not cut off"
    fetching = json.loads(status("--json", served.url).stdout)["meetings"][0]["fetching"]
    assert {entry["node_id"]: entry["source"] for entry in fetching}["n[red]3"] == "n2"


def test_a_status_without_a_master_is_explained(spawn: Spawner, folder: Path, fakes: FakeFactory) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nothing = f"127.0.0.1:{unused.getsockname()[1]}"
        deployed = fakes.master(folder)
        for url, words in (
            (nothing, f"no master answers at {nothing} ("),
            (deployed.url, "but another program, or a master without the shim; HTTP status 404"),
            ("ftp://127.0.0.1", "not host:port"),
            ("http://127.0.0.1:99999", "not host:port"),
            ("http://127.0.0.1/caf\u00e9", "no master answers"),
        ):
            done = status(url)
            assert (done.returncode, done.stdout) == (3, "")
            assert words in done.stderr
            assert "Traceback" not in done.stderr
    assert status("--yaml").returncode == 2
