"""The documents of the store match the code: `docs/store.md` runs, and the examples of the format are valid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from store import Chunk, Digest, Manifest, Store, UnknownFormat
from store import splitting as cut
from store.layout import FORMAT, quote
from store.manifest import MAX_CHUNK_BYTES
from store.refs import decode, encode
from tests.support.markdown import blocks, read, table

FORMATS = ("docs/on-disk-format.md", "docs/on-disk-format.zh-CN.md")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = [block for block in blocks("docs/store.md") if block.language == "python"]
    assert len(parts) > 5
    assert all(block.name == "run" for block in parts)
    names: dict[str, object] = {"__name__": "examples"}
    for number, block in enumerate(parts):
        exec(compile(block.text, f"docs/store.md, example {number + 1}", "exec"), names)


def examples(path: str) -> dict[str, str]:
    return {block.name: block.text for block in blocks(path) if block.name}


@pytest.mark.parametrize("path", FORMATS)
def test_the_examples_of_the_format_are_of_the_format(path: str) -> None:
    said = examples(path)
    assert said.keys() == {"format", "manifest", "ref", "node", "lock"}
    assert said["format"] == f"{FORMAT}\n"
    manifest = Manifest.from_json(said["manifest"].encode())
    assert manifest.to_json() == said["manifest"].strip().encode()
    ref = decode(said["ref"].encode())
    assert encode(ref) == said["ref"].encode()
    assert ref.digest == manifest.digest
    lock = json.loads(said["lock"])
    assert lock.keys() == {"address", "node_id", "pid"}
    assert lock["node_id"] == json.loads(said["node"])["node_id"]


@pytest.mark.parametrize("path", FORMATS)
def test_ids_are_quoted_as_the_table_says(path: str) -> None:
    rows = table(path, "quoted")
    assert len(rows) == 3
    for meeting_id, name in rows:
        assert f"`{quote(meeting_id.strip('`'))}.json`" == name


@pytest.mark.parametrize("path", FORMATS)
def test_numbers_are_those_of_the_code(path: str) -> None:
    text = read(path)
    for size in (cut.CHUNK_BYTES, cut.MIN_CHUNK_BYTES, cut.MAX_CHUNK_BYTES, cut.MAX_GAP_BYTES, MAX_CHUNK_BYTES):
        spelt = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
        assert spelt in text.replace("\n", " "), spelt
    assert f"{cut.INLINE_BYTES} " in text


def test_another_format_is_refused_in_the_words_of_the_document(tmp_path: Path) -> None:
    folder = tmp_path / "storage"
    folder.mkdir()
    (folder / "format").write_text("trionode storage 2\n")
    with pytest.raises(UnknownFormat) as refused:
        Store.open(folder)
    said = str(refused.value).replace(str(folder), "storage")
    for path in FORMATS:
        assert said in re.sub(r"\s+", " ", read(path))
    assert [entry.name for entry in folder.iterdir()] == ["format"]


def test_the_layout_is_what_a_store_leaves(tmp_path: Path) -> None:
    """The document lists every file of a store with a fill and a stream in progress."""
    known = set(re.findall(r"^  (\S+)  ", read(FORMATS[0]), re.MULTILINE))
    with Store.open(tmp_path) as store:
        data = b"x" * 3_000
        fill = store.begin_fill(Manifest(Digest.of(data), 3_000, (Chunk(0, 3_000, Digest.of(data)),)))
        stream = store.begin_stream("s")
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert {re.sub(r"[0-9a-f]{64}", "<digest>", name) for name in found} <= known
        assert len(found) == 3
        fill.discard()
        stream.discard()


def test_both_languages_say_the_same() -> None:
    english, chinese = FORMATS
    assert examples(english) == examples(chinese)
    shapes = [
        [
            re.split(r"[ |]", line)[0] + str(line.count("|"))
            for line in read(path).splitlines()
            if line[:1] in {"#", "|"}
        ]
        for path in FORMATS
    ]
    assert shapes[0] == shapes[1]
