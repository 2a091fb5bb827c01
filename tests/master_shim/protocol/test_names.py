"""Untrusted names: what is accepted, and how it is encoded."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from master_shim.protocol.names import attachment, is_meeting_id, own_address, package_url


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
    "text", ["", ".", "..", "a/b", "a\\b", "\x00", "a\x00b", "x" * 10_000, "․․", "ａ", ".a", "\ud800"]
)
def test_invalid_meeting_ids(text: str) -> None:
    assert not is_meeting_id(text)


@pytest.mark.parametrize("text", ["m", "会议 1", "a-b_c.d:e@f+g=h~i", "x" * 128, "-", "١"])
def test_valid_meeting_ids(text: str) -> None:
    assert is_meeting_id(text)
