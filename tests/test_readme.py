"""The READMEs match the code: every command is run, every program started, every table compared.

Code blocks are named in a comment on the line before; `tests.support.reader` runs them.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import settings_table
from tests.support.markdown import blocks, read, table
from tests.support.nodes import BIN, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.reader import Reader
from tests.support.waiting import eventually_blocking
from trionode.settings import Settings, load_settings

if TYPE_CHECKING:
    from tests.fakes.running import FakeFactory
    from tests.support.processes import Spawner

LANGUAGES = ("README.md", "README.zh-CN.md")
BLOCKS = {block.name: block for block in blocks("README.md") if block.language != "text"}
STARTS = ("serve", "module", "hypercorn-trio", "hypercorn")
MOUNTS = {
    "mount": ("uvicorn", "--port"),
    "middleware": ("uvicorn", "--port"),
    "quart": ("hypercorn", "-k", "trio", "--bind"),
}


@pytest.fixture
def reader(spawn: Spawner, tmp_path: Path) -> Reader:
    return Reader.beginning(spawn, tmp_path, "README.md")


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
    assert table(path, "settings") == settings_table.rows(path), "python -m tests.support.settings_table"
    assert all(text for *_, text in table(path, "settings")), "a setting without a description"


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


def test_make_knows_the_two_commands(reader: Reader) -> None:
    """The targets are tested in test_demo.py; `make test` in a test would not end."""
    assert "-m examples.demo" in reader.run("make", dry=True)


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
    reader.run("packages")
    master = reader.start("master")
    package = (reader.folder / "packages" / "board.zip").read_bytes()
    eventually_blocking(lambda: reader.gets(f"{MASTER}/{BOARD}") == package, within=20, what="the master's own file")
    data = reader.get(f"{MASTER}/meetings/board/data").json()
    assert (data["title"], data["time"]) == ("Meeting of the board", "2026-11-24 14:00")

    node = reader.start("serve")
    eventually_blocking(
        lambda: b'"held":true' in (reader.gets(f"{MASTER}/packages/{digest_of(package)}/nodes") or b""),
        what="a node with it",
    )
    reader.run("download")
    assert (reader.folder / "board.zip").read_bytes() == package
    looked = reader.run("look")
    assert digest_of(package)[:12] in looked
    assert '"downloads_finished": 1' in looked, "sent by the node, not by the master"

    with zipfile.ZipFile(reader.folder / "packages" / ".board.zip", "w") as archive:
        archive.writestr("agenda.txt", b"another")
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
