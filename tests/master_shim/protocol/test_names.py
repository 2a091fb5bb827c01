"""Untrusted names: what is accepted, and how it is encoded."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from master_shim.protocol.names import attachment, is_meeting_id, own_address, package_url, why_no_meeting_id
from master_shim.protocol.target import path_of
from master_shim.routes import Match, Route, find
from store.layout import Layout
from trionode.delivery import http


@given(st.text(min_size=1, max_size=140))
@example('a"; filename="evil')
@example("a\r\nSet-Cookie: x=y")
@example("会议-1")
def test_a_file_name_cannot_break_out_of_its_header(meeting_id: str) -> None:
    try:
        meeting_id.encode()
    except UnicodeEncodeError:
        return
    value = attachment(f"meeting_{meeting_id}_pdfs.zip").decode("ascii")
    match = re.fullmatch(r"attachment; filename=\"([A-Za-z0-9._ -]*)\"(?:; filename\*=UTF-8''([!-~]*))?", value)
    assert match is not None
    assert (unquote(match[2]) if match[2] else match[1]) == f"meeting_{meeting_id}_pdfs.zip"


@pytest.mark.parametrize(
    ("scheme", "host", "server", "wanted"),
    [
        ("http", "master.lan:8000", None, "master.lan:8000"),
        ("http", "master.lan", None, "master.lan:80"),
        ("https", "master.lan", None, "master.lan:443"),
        ("http", "[::1]:8000", None, "[::1]:8000"),
        ("http", "evil/x?:80", ("10.0.0.1", 8000), "10.0.0.1:8000"),
        ("http", "a\r\nb:1", ("::1", 8000), "[::1]:8000"),
        ("http", "", ("10.0.0.1", 8000), "10.0.0.1:8000"),
        ("http", "user@host:80", ("/run/socket", None), None),
        ("http", "host:99999", None, None),
    ],
)
def test_the_address_by_which_a_client_reached_this_server(
    scheme: str, host: str, server: tuple[str, int | None] | None, wanted: str | None
) -> None:
    assert own_address(scheme, host, server) == wanted


def test_a_package_url_quotes_the_id() -> None:
    assert package_url("http://h:1", "a b?c#d") == "http://h:1/api/v1/meetings/a%20b%3Fc%23d/download-package"


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a/b", "a\\b", "\x00", "a\x00b", "a\nb", "x" * 239, "会" * 80, "x" * 10_000, ".a", "a.", " a", "a ",
     "\u3000a", "\ud800", "%2e%2e", "a%2Fb", "․․", "．．", "a／b", "a＼b", "a⁄b", "a∕b", "a％2fb", "℀", "a\u202eb",
     "a\u200bb", "cafe\u0301", "a\ufffdb"],
)  # fmt: skip
def test_invalid_meeting_ids(text: str) -> None:
    assert not is_meeting_id(text)
    assert why_no_meeting_id(text)


@pytest.mark.parametrize(
    "text",
    ["m", "会议 1", "a-b_c.d:e@f+g=h~i", "x" * 238, "会" * 79, "-", "١", "board (1)", "会议（一）", "Q3, final", "R&D",
     "2026#1", "100% done", "½ Tag", "会议　二", "《预算》：说明", "👩\u200d💻",
     "Chairman's \"new\" one", "café", "ａ", "a..b"],
)  # fmt: skip
def test_valid_meeting_ids(text: str) -> None:
    assert why_no_meeting_id(text) == ""


PARTS = [
    "/", "\\", ".", "..", "%", "2e", "2F", "\0", "\r\n", "\t", "\x7f", "\ud800", "\u202e", "\u2028", "․", "‥", "．",
    "／", "＼", "％", "⁄", "∕", "﹨", "℀", "?", "#", "&", ";", ",", '"', "'", "<", "(", "（", " ", "\u3000", "e\u0301",
    "é", "会", "😀", "a",
]  # fmt: skip
MIXED = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)


@settings(max_examples=1_000)
@given(st.one_of(MIXED, st.text(), st.text(st.characters(codec=None))))
@example("x" * 238)
@example("😀" * 59)
def test_no_valid_id_reaches_another_path_or_header(text: str) -> None:
    if not is_meeting_id(text):
        return
    for form in (text, unicodedata.normalize("NFKC", text), unquote(text)):
        assert not re.search(r"[/\\\x00-\x1f\x7f]", form)
        assert not form.startswith(".")
    # As a file name: directly in the folder, with every suffix.
    for name in (f"{text}.zip", f"{text}.json", f"meeting_{text}_pdfs.zip"):
        assert len(name.encode()) <= 255
        assert Path("/folder", name).resolve() == Path("/folder") / name
    ref = Layout(Path("/storage")).ref(text)
    assert ref.parent == Path("/storage/meetings")
    assert len(ref.name.encode()) <= 255
    # As a part of a URL: one segment, which the routes of the shim and the node return unchanged.
    url = package_url("http://h:1", text)
    assert re.fullmatch(r"[!-~]+", url)
    split = urlsplit(url)
    assert (split.netloc, split.query, split.fragment) == ("h:1", "", "")
    scope = {"path": unquote(split.path)}
    assert find(path_of(scope)) == Match(Route.DOWNLOAD, text)
    of_node = http._PATH.fullmatch(path_of(scope))
    assert of_node is not None
    assert of_node[1] == text
    # As a header.
    assert re.fullmatch(rb"attachment; filename=\"[A-Za-z0-9._ -]*\"(; filename\*=UTF-8''[!-~]*)?", attachment(text))
