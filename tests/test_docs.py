"""The documents match the code: tables, messages, examples of the protocol, links, commands."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from master_shim import node, protocol
from store import Manifest
from tests.support.markdown import blocks, documents, links, read, table
from tests.support.packages import make_documents, make_package
from tests.support.processes import ROOT, free_port
from tests.support.reader import Reader
from tests.support.waiting import eventually_blocking
from trionode.answers import ANSWERS
from trionode.meetings.states import TRANSITIONS, MeetingEvent, MeetingState

if TYPE_CHECKING:
    from tests.support.processes import Spawner

OPERATIONS = ("docs/operations.md", "docs/operations.zh-CN.md")
PROTOCOL = ("docs/protocol.md", "docs/protocol.zh-CN.md")


def test_the_states_of_a_meeting_are_drawn_from_their_table() -> None:
    drawn = [
        [f"**{state.value}**", *(_after(TRANSITIONS.get((state, event))) for event in MeetingEvent)]
        for state in MeetingState
    ]
    assert table("docs/design.md", "meeting states") == drawn
    assert _head("docs/design.md", "meeting states") == [event.value for event in MeetingEvent]


def test_the_states_of_a_node_are_drawn_from_their_table() -> None:
    drawn = [
        [f"**{state.value}**", *(_after(node.TRANSITIONS[state].get(event)) for event in node.Event)]
        for state in node.State
    ]
    assert table("docs/design.md", "node states") == drawn
    assert _head("docs/design.md", "node states") == [event.value for event in node.Event]


def _after(state: MeetingState | node.State | None) -> str:
    return "·" if state is None else state.value


def _head(path: str, name: str) -> list[str]:
    line = read(path).split(f"<!-- {name} -->\n", 1)[1].splitlines()[0]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize("path", OPERATIONS)
def test_the_table_of_answers_is_that_of_the_node(path: str) -> None:
    said = {error.strip("`"): int(status) for status, error, _ in table(path, "answers")}
    assert said == {error.__name__: status for error, (status, _) in ANSWERS.items()}


@pytest.mark.parametrize("path", OPERATIONS)
def test_every_message_that_is_explained_is_one_that_can_be_met(path: str) -> None:
    """Variable parts are written `…`; the text between them is in the code, perhaps over several lines."""
    code = "".join(
        re.sub(r'["\']\s*\n\s*f?["\']', "", source.read_text(encoding="utf-8"))
        for folder in ("store", "master_shim", "trionode")
        for source in sorted((ROOT / folder).rglob("*.py"))
    ).replace("\\'", "'")
    sections = read(path).split("<!-- messages -->\n")[1:]
    messages = re.findall(
        r"^\| `([^`]+)` \|", "\n".join(section.split("\n\n")[0] for section in sections), re.MULTILINE
    )
    assert len(messages) > 20
    for message in messages:
        for part in filter(None, (part.strip() for part in message.split("…"))):
            assert part in code, f"no message has {part!r}"


@pytest.mark.parametrize("path", PROTOCOL)
def test_the_examples_of_the_wire_are_what_both_sides_read(path: str) -> None:
    named = [block for block in blocks(path) if block.language == "json" and block.name]
    assert {block.name for block in named} >= {"Registration", "Heartbeat", "HeartbeatAnswer", "NodeStatus", "Manifest"}
    for block in named:
        if block.name == "Manifest":
            manifest = Manifest.from_json(block.text.encode())
            assert manifest.to_json() == block.text.strip().encode()
            continue
        kind = getattr(protocol, block.name.removesuffix("[]"))
        wanted = list[kind] if block.name.endswith("[]") else kind
        said, read_as = msgspec.json.decode(block.text), msgspec.json.decode(block.text, type=wanted)
        understood = msgspec.to_builtins(read_as)
        for message, fields in zip(_listed(said), _listed(understood), strict=True):
            assert message.items() <= {**fields, **message}.items()
            assert message.keys() <= set(kind.__struct_fields__), "a field that the code does not define"
    for block in blocks(path):
        if block.language == "json":
            msgspec.json.decode(block.text)


def _listed(value: list[dict[str, object]] | dict[str, object]) -> list[dict[str, object]]:
    return value if isinstance(value, list) else [value]


def test_a_heartbeat_says_all_that_a_deployed_master_may_insist_on() -> None:
    beat = msgspec.json.decode(msgspec.json.encode(protocol.Heartbeat("n", "127.0.0.1:1")))
    assert beat.keys() >= {"node_id", "address", "status", "active_meetings", "synced_meetings"}


@pytest.mark.parametrize(("english", "chinese"), [OPERATIONS, PROTOCOL])
def test_both_languages_have_the_same_blocks_and_headings(english: str, chinese: str) -> None:
    assert [b for b in blocks(english) if b.language != "text"] == [b for b in blocks(chinese) if b.language != "text"]
    levels = [
        [line.split()[0] for line in read(path).splitlines() if re.match("#+ ", line)] for path in (english, chinese)
    ]
    assert levels[0] == levels[1]
    rows = [
        [line.count("|") for line in read(path).splitlines() if line.startswith("|")] for path in (english, chinese)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("path", documents())
def test_links_lead_somewhere(path: str) -> None:
    for link in links(path):
        assert (ROOT / path).parent.joinpath(link).exists(), f"{path} links to {link}"


def test_the_commands_of_the_operations_work(spawn: Spawner, tmp_path: Path) -> None:
    """Run a node without a terminal, manage its storage, move it to another folder, and end it."""
    reader = Reader.beginning(spawn, tmp_path, "docs/operations.md")
    packages = tmp_path / "packages"
    packages.mkdir()
    package = make_package(packages / "board.zip", make_documents(3, 40_000))
    master = reader.serve_packages(packages)
    (tmp_path / "trionode.toml").write_text(
        f'main_server = "http://127.0.0.1:{reader.master}"\nnode_address = "127.0.0.1:{reader.node}"\n'
    )
    assert reader.run("install", dry=True) is not None
    try:
        reader.run("start")
        _synced(reader, package.digest)
        printed = reader.run("storage")
        assert package.digest[:12] in printed
        assert (tmp_path / "copy-of-board.zip").read_bytes() == package.path.read_bytes()
        reader.run("move")
        shutil.rmtree(tmp_path / "storage")
        _synced(reader, package.digest)
        pid = int((tmp_path / "trionode.pid").read_text())
        reader.run("stop")
        eventually_blocking(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the node")
    finally:
        reader.end_background(tmp_path / "trionode.pid")
    assert "Traceback" not in (tmp_path / "trionode.log").read_text()
    assert master.stop() == 0


def test_several_nodes_run_on_one_machine(spawn: Spawner, tmp_path: Path) -> None:
    reader = Reader.beginning(spawn, tmp_path, "docs/operations.md")
    packages = tmp_path / "packages"
    packages.mkdir()
    package = make_package(packages / "board.zip", make_documents(1, 40_000))
    master = reader.serve_packages(packages)
    (tmp_path / "trionode.toml").write_text(f'main_server = "http://127.0.0.1:{reader.master}"\n')
    block = reader.blocks["several"]
    text = block.text.replace("/var/lib/trionode", str(tmp_path / "nodes"))
    for there, port in (("8001", reader.node), ("8002", free_port())):
        text = text.replace(f"192.168.1.21:{there}", f"127.0.0.1:{port}").replace(f"--port {there}", f"--port {port}")
    replaced = replace(reader, blocks={"several": replace(block, text=text)})
    try:
        replaced.run("several")
        holders = f"http://192.168.1.10:8000/api/v1/packages/{package.digest}/nodes"
        eventually_blocking(lambda: (reader.gets(holders) or b"").count(b'"held":true') == 2, what="two nodes with it")
    finally:
        for number in (1, 2):
            reader.end_background(tmp_path / f"trionode-{number}.pid")
    assert master.stop() == 0


def _synced(reader: Reader, digest: str) -> None:
    def held() -> bool:
        report = reader.status() or {"active_meetings": []}
        return [(m["version"], m["state"]) for m in report["active_meetings"]] == [(digest, "current")]

    eventually_blocking(held, within=20, what="a node that holds the package")
