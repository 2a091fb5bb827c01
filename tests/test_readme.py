"""The READMEs are true: every command in them is run, every program started, every table compared with the code.

Code blocks have a name, in a comment on the line before. What is replaced when they run, and nothing else, is in
`replaced`: the addresses of a LAN by 127.0.0.1 and a free port, and the folder of programs by that of this
interpreter. Blocks run in bash, in an empty folder.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.markdown import blocks, read, table
from tests.support.nodes import BIN, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import ROOT, free_port
from tests.support.waiting import eventually_blocking
from trionode.config import Settings, flag_of, load_settings, variable_of

if TYPE_CHECKING:
    from tests.fakes.running import FakeFactory
    from tests.support.processes import Process, Spawner

LANGUAGES = ("README.md", "README.zh-CN.md")
BLOCKS = {block.name: block for block in blocks("README.md") if block.language != "text"}
STARTS = ("serve", "module", "hypercorn-trio", "hypercorn")
MOUNTS = {
    "mount": ("uvicorn", "--port"),
    "middleware": ("uvicorn", "--port"),
    "quart": ("hypercorn", "-k", "trio", "--bind"),
}


@dataclasses.dataclass(frozen=True)
class Reader:
    """Somebody who types what the README says, with a master and a node on ports of their own."""

    spawn: Spawner
    folder: Path
    master: int
    node: int

    def replaced(self, text: str) -> str:
        """Return a block as it is run here."""
        for there, here in {
            "192.168.1.10:8000": f"127.0.0.1:{self.master}",
            "192.168.1.21:8001": f"127.0.0.1:{self.node}",
            "--host 0.0.0.0 --port 8000": f"--host 127.0.0.1 --port {self.master}",
            "--bind 0.0.0.0:8001": f"--bind 127.0.0.1:{self.node}",
            ".venv/bin": str(BIN),
        }.items():
            text = text.replace(there, here)
        return text

    @property
    def environ(self) -> dict[str, str]:
        """What stands in for defaults that a test cannot use: all interfaces, port 8001. No proxy for loopback."""
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        listen = {"TRIONODE_HOST": "127.0.0.1", "TRIONODE_PORT": str(self.node)}
        return {**listen, "PATH": path, "no_proxy": "*", "COLUMNS": "200"}

    def run(self, name: str) -> str:
        """Run a block to its end and return what it prints. A command that fails is a failure."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.replaced(BLOCKS[name].text)],
            cwd=self.folder,
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str) -> Process:
        """Start a block whose last line is a server, in whose place the shell steps, so that signals reach it."""
        *before, last = self.replaced(BLOCKS[name].text).splitlines()
        script = "\n".join([*before, f"exec {last}"])
        return self.spawn("bash", "-euc", script, cwd=self.folder, env=self.environ, name=name)

    def get(self, url: str) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=30) as client:
            return client.get(self.replaced(url), follow_redirects=True)

    def gets(self, url: str) -> bytes | None:
        """Return the body of a successful answer, None while there is none."""
        try:
            answer = self.get(url)
        except httpx.TransportError:
            return None
        return answer.content if answer.status_code == 200 else None


@pytest.fixture
def reader(spawn: Spawner, tmp_path: Path) -> Reader:
    return Reader(spawn, tmp_path, free_port(), free_port())


MASTER = "http://192.168.1.10:8000/api/v1"
NODE = "http://192.168.1.21:8001"
BOARD = "meetings/board/download-package"


def test_every_block_is_run_by_a_test_here() -> None:
    used = {"make", "activate", *STARTS, "toml", "packages", "master", "download", *MOUNTS, "look"}
    assert BLOCKS.keys() == used


def test_both_languages_have_the_same_code_and_headings() -> None:
    english, chinese = ([b for b in blocks(path) if b.language != "text"] for path in LANGUAGES)
    assert english == chinese
    counts = [[line.split()[0] for line in read(path).splitlines() if line.startswith("#")] for path in LANGUAGES]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("path", LANGUAGES)
def test_the_table_of_settings_is_that_of_the_code(path: str) -> None:
    rows = table(path, "settings")
    names = [field.name for field in dataclasses.fields(Settings)]
    assert [row[0] for row in rows] == [f"`{name}`" for name in names]
    for name, (_, flag, variable, default, meaning) in zip(names, rows, strict=True):
        assert (flag, variable) == (f"`{flag_of(name)}`", f"`{variable_of(name)}`")
        written = default.strip("`")
        assert load_settings({name: written or None}, {}) == Settings(), f"another default for {name}"
        assert bool(written) == bool(str(getattr(Settings(), name)))
        assert meaning


def test_the_file_of_settings_is_read(tmp_path: Path) -> None:
    file = tmp_path / "trionode.toml"
    file.write_text(BLOCKS["toml"].text)
    assert load_settings(environ={}, config=file) == Settings(
        main_server="http://192.168.1.10:8000",
        node_address="192.168.1.21:8001",
        storage_path=Path("/var/lib/trionode"),
        max_bytes=50 << 30,
        min_free_bytes=2 << 30,
        max_downloads=200,
    )


def test_make_knows_the_two_commands() -> None:
    """What they run is tested in test_demo.py; running `make test` from a test would not end."""
    for line in BLOCKS["make"].text.splitlines():
        make, target = line.split()
        subprocess.run([make, "--dry-run", target], cwd=ROOT, capture_output=True, timeout=30, check=True)


def test_the_programs_are_where_the_readme_says(reader: Reader) -> None:
    printed = reader.run("activate")
    assert "serve" in printed
    assert "status" in printed


@pytest.mark.parametrize("name", STARTS)
def test_a_node_beside_a_deployed_master(name: str, reader: Reader, fakes: FakeFactory) -> None:
    packages = reader.folder / "master"
    packages.mkdir()
    make_package(packages / "board.zip", make_documents(3, 60_000), level=1)
    master = fakes.master(packages, started=("board",), port=reader.master)
    node = reader.start(name)
    data = eventually_blocking(lambda: reader.gets(f"{NODE}/api/v1/{BOARD}"), within=20, what=f"a package by {name}")
    assert digest_of(data) == master.state()["meetings"]["board"]["digest"]
    assert (reader.folder / "storage" / "packages" / f"{digest_of(data)}.zip").read_bytes() == data
    eventually_blocking(lambda: reader.get(f"{MASTER}/nodes/list").json(), what="a node on the master's list")
    status = node.stop()
    assert status == 0 or name.startswith("hypercorn")
    assert reader.get(f"{MASTER}/nodes/list").json() == []


def test_a_whole_small_master_with_a_node_and_a_tablet(reader: Reader) -> None:
    for name in ("agenda.pdf", "minutes.pdf"):
        (reader.folder / name).write_bytes(make_documents(1, 50_000, seed=name)[0].content())
    reader.run("packages")
    master = reader.start("master")
    package = (reader.folder / "packages" / "board.zip").read_bytes()
    eventually_blocking(lambda: reader.gets(f"{MASTER}/{BOARD}") == package, within=20, what="the master's own file")
    data = reader.get(f"{MASTER}/meetings/board/data").json()
    assert (data["title"], data["time"]) == ("Meeting of the board", "2026-11-24 14:00")

    node = reader.start("serve")
    eventually_blocking(
        lambda: reader.gets(f"{MASTER}/packages/{digest_of(package)}/nodes") not in {None, b"[]"}, what="a node with it"
    )
    reader.run("download")
    assert (reader.folder / "board.zip").read_bytes() == package
    looked = reader.run("look")
    assert digest_of(package)[:12] in looked
    assert '"downloads_finished": 1' in looked, "the node, and not the master, has sent it"

    with zipfile.ZipFile(reader.folder / "packages" / ".board.zip", "w") as archive:
        archive.writestr("agenda.pdf", b"another")
    (reader.folder / "packages" / ".board.zip").rename(reader.folder / "packages" / "board.zip")
    package = (reader.folder / "packages" / "board.zip").read_bytes()
    eventually_blocking(lambda: reader.gets(f"{NODE}/api/v1/{BOARD}") == package, what="the new package at the node")
    (reader.folder / "packages" / "board.zip").unlink()
    assert reader.get(f"{MASTER}/meetings/status/token").json() == {"id": "none", "meetings": []}
    assert (node.stop(), master.stop()) == (0, 0)


@pytest.mark.parametrize("name", MOUNTS)
def test_the_shim_in_a_master_of_ones_own(name: str, reader: Reader) -> None:
    (reader.folder / "master.py").write_text(BLOCKS[name].text)
    (reader.folder / "packages").mkdir()
    package = make_package(reader.folder / "packages" / "board.zip", make_documents(2, 30_000)).path.read_bytes()
    server, *arguments = MOUNTS[name]
    where = f"127.0.0.1:{reader.master}" if arguments[-1] == "--bind" else str(reader.master)
    process = reader.spawn(
        BIN / server, *arguments, where, "master:app", cwd=reader.folder, env={"PYTHONPATH": str(reader.folder)}
    )
    process.wait_port(reader.master)
    assert reader.get(f"{MASTER}/{BOARD}").content == package
    assert reader.get(f"{MASTER}/meetings/other/download-package").status_code == 404
    assert reader.get(f"{MASTER}/nodes/available").json() == {"count": 0, "nodes": []}
    process.stop()


@pytest.mark.parametrize("path", LANGUAGES)
def test_the_figures_are_filled_in(path: str) -> None:
    rows = table(path, "figures")
    assert rows
    assert all(row[1:] and all(cell[0].isdigit() for cell in row[1:]) for row in rows)
