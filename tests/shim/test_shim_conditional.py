"""Ranges, conditions, names and paths: pure, against naive models."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from master_shim.conditional import accepts_gzip, not_modified, plan_answer
from master_shim.names import attachment, own_address, package_url, valid_meeting_id
from master_shim.routes import Route, find

ETAG = '"' + "a" * 64 + '"'


def naive(size: int, first: int | None, last: int | None) -> tuple[int, list[int]]:
    """A range, byte by byte: the status and the positions that are sent."""
    every = list(range(size))
    if first is None:
        assert last is not None
        found = every[max(size - last, 0) :]
    elif last is not None and last < first:
        return 200, every
    else:
        found = [n for n in every if n >= first and (last is None or n <= last)]
    return (206, found) if found else (416, [])


numbers = st.one_of(st.integers(0, 60), st.integers(0, 10**25))


@given(st.integers(0, 50), st.one_of(st.none(), numbers), st.one_of(st.none(), numbers))
@example(10, 10**22, 10**21)
@example(0, 0, None)
@example(10, None, 0)
def test_a_range_is_what_a_naive_model_says(size: int, first: int | None, last: int | None) -> None:
    if first is None and last is None:
        return
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    plan = plan_answer(size, ETAG, range_header=text)
    status, positions = naive(size, first, last)
    assert plan.status == status
    assert list(range(plan.start, plan.start + plan.count)) == positions


def test_leading_zeros_do_not_change_a_number() -> None:
    plan = plan_answer(100, ETAG, range_header=f"bytes={'0' * 5000}5-{'0' * 5000}9")
    assert (plan.status, plan.start, plan.count) == (206, 5, 5)


@given(st.text(max_size=30))
@example("bytes=0-1,5-6")
@example("bytes=-")
@example("bytes=１-２")
@example("lines=0-1")
def test_any_other_range_is_ignored(text: str) -> None:
    plan = plan_answer(50, ETAG, range_header=text)
    if re.fullmatch(r"\s*bytes\s*=\s*(\d+-\d*|-\d+)\s*", text, re.ASCII | re.IGNORECASE) is None:
        assert (plan.status, plan.start, plan.count) == (200, 0, 50)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if_none_match": ETAG}, 304),
        ({"if_none_match": f"W/{ETAG}"}, 304),
        ({"if_none_match": f'"x", W/"y", {ETAG}'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"x"'}, 200),
        ({"if_none_match": ETAG.strip('"')}, 200),
        ({"if_match": '"x"'}, 412),
        ({"if_match": f"W/{ETAG}"}, 412),
        ({"if_match": f'"x", {ETAG}'}, 200),
        ({"if_match": "*"}, 200),
        ({"range_header": "bytes=0-4", "if_range": ETAG}, 206),
        ({"range_header": "bytes=0-4", "if_range": f"W/{ETAG}"}, 200),
        ({"range_header": "bytes=0-4", "if_range": "Tue, 24 Nov 2026 10:00:00 GMT"}, 200),
        ({"range_header": "bytes=0-4", "if_none_match": ETAG}, 304),
        ({"range_header": "bytes=99-", "if_range": '"other"'}, 200),
    ],
)
def test_conditions(headers: dict[str, str], status: int) -> None:
    assert plan_answer(10, ETAG, **headers).status == status  # type: ignore[arg-type]


def test_not_modified_compares_weakly() -> None:
    assert not_modified(f"W/{ETAG}", ETAG)
    assert not not_modified('"other"', ETAG)
    assert not not_modified(None, ETAG)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("br, deflate", False),
        ("identity", False),
        ("", False),
        ("gzip;q=x", False),
        (";;,,", False),
    ],
)
def test_accept_encoding(header: str, wanted: bool) -> None:
    assert accepts_gzip(header) is wanted


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
def test_the_masters_own_address(
    scheme: str, host: str, server: tuple[str, int | None] | None, wanted: str | None
) -> None:
    assert own_address(scheme, host, server) == wanted


def test_a_package_url_keeps_an_id_in_its_place() -> None:
    assert package_url("http://h:1", "a b?c#d") == "http://h:1/api/v1/meetings/a%20b%3Fc%23d/download-package"


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a/b", "a\\b", "\x00", "a\x00b", "x" * 10_000, "․․", "ａ", ".a", "\ud800"]
)
def test_what_can_be_no_meeting_id(text: str) -> None:
    assert not valid_meeting_id(text)


@pytest.mark.parametrize(
    ("path", "root_path", "route", "argument", "prefix"),
    [
        ("/api/v1/meetings/m/download-package", "", Route.DOWNLOAD, "m", ""),
        ("/api/v1/meetings/status/token", "", Route.STATUS_TOKEN, "", ""),
        ("/api/v1/meetings/status/download-package", "", Route.DOWNLOAD, "status", ""),
        ("/api/v1/meetings//download-package", "", Route.DOWNLOAD, "", ""),
        ("/api/v1/packages/d", "", Route.PACKAGE, "d", ""),
        ("/api/v1/packages/d/nodes", "", Route.PACKAGE_NODES, "d", ""),
        ("/pre/api/v1/nodes/list", "/pre", Route.LIST, "", "/pre"),  # as Starlette mounts
        ("/api/v1/nodes/list", "/pre", Route.LIST, "", "/pre"),  # as others do, and proxies
        ("/api/v1/nodes/list", "/api", Route.LIST, "", "/api"),
        ("/api/api/v1/nodes/list", "/api/", Route.LIST, "", "/api"),
        ("/pre", "/pre", Route.ROOT, "", "/pre"),
        ("/pre/", "/pre", Route.ROOT, "", "/pre"),
    ],
)
def test_paths_and_mount_points(path: str, root_path: str, route: Route, argument: str, prefix: str) -> None:
    assert find(path, root_path) == (route, argument, prefix)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/api/v1",
        "/api/v1/meetings/a/b/download-package",
        "/api/v1/meetings/m",
        "/api/v1/meetings/m/",
        "/api/v1/packages/d/x",
        "/api/v1/packages/d/nodes/",
        "/prefix/api/v1/nodes/list",
        "//api/v1/nodes/list",
    ],
)
def test_paths_that_are_no_route(path: str) -> None:
    assert find(path) is None
    assert find("/x" + path, "/x") is None or path == ""
