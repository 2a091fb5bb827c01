"""Ranges, conditions, names and paths: pure, against naive models."""

from __future__ import annotations

import re
from itertools import pairwise
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from master_shim.byteranges import GAP_BYTES, MAX_RANGES
from master_shim.conditional import Conditions, Plan, accepts_gzip, compose, not_modified, plan_answer
from master_shim.dates import format_date, parse_date
from master_shim.names import attachment, own_address, package_url, valid_meeting_id
from master_shim.routes import Route, find
from tests.support.multiparts import parse_multipart

ETAG = '"' + "a" * 64 + '"'


def naive_one(size: int, first: int | None, last: int | None) -> set[int] | None:
    """A range, byte by byte: the positions that are asked for, or None for one that is backwards."""
    every = range(size)
    if first is None:
        assert last is not None
        return set(every[max(size - last, 0) :])
    if last is not None and last < first:
        return None
    return {n for n in every if n >= first and (last is None or n <= last)}


def written(first: int | None, last: int | None) -> str:
    return f"{'' if first is None else first}-{'' if last is None else last}"


numbers = st.one_of(st.integers(0, 60), st.integers(0, 2000), st.integers(0, 10**25))
specs = st.one_of(
    st.tuples(numbers, st.one_of(st.none(), numbers)),
    st.tuples(st.none(), numbers),
)


@given(st.integers(0, 50), specs)
@example(10, (10**22, 10**21))
@example(0, (0, None))
@example(10, (None, 0))
def test_a_range_is_what_a_naive_model_says(size: int, spec: tuple[int | None, int | None]) -> None:
    plan = plan_answer(size, ETAG, Conditions(range=f"bytes={written(*spec)}"))
    wanted = naive_one(size, *spec)
    if wanted is None:
        assert plan == Plan(200, (range(size),) if size else ())
    elif not wanted:
        assert plan == Plan(416)
    else:
        assert plan.status == 206
        assert [set(part) for part in plan.ranges] == [wanted]


@given(st.integers(0, 2000), st.lists(specs, min_size=1, max_size=12))
@example(2000, [(0, 0), (1000, 1000), (None, 1)])
@example(2000, [(1500, None), (0, 10), (1400, 1600)])
def test_several_ranges_are_what_a_naive_model_says(size: int, asked: list[tuple[int | None, int | None]]) -> None:
    plan = plan_answer(size, ETAG, Conditions(range="bytes=" + ",".join(written(*spec) for spec in asked)))
    each = [naive_one(size, *spec) for spec in asked]
    wanted = set().union(*(positions or () for positions in each))
    if None in each:
        assert plan == Plan(200, (range(size),) if size else ())
        return
    assert plan.status == (206 if wanted else 416)
    sent = [n for part in plan.ranges for n in part]
    assert len(sent) == len(set(sent)), "no byte twice, however the ranges overlap"
    assert wanted <= set(sent)
    # What was not asked for lies in a gap too small to be worth a part.
    runs = sorted(plan.ranges, key=lambda part: part.start)
    assert all(after.start - before.stop > GAP_BYTES for before, after in pairwise(runs))
    assert all({part.start, part.stop - 1} <= wanted for part in plan.ranges)
    for run in runs:
        inside = sorted(wanted.intersection(run))
        assert all(after - before <= GAP_BYTES + 1 for before, after in pairwise(inside))
    # In the order in which they were asked for: each part by the first range that is in it.
    firsts = [
        min(i for i, positions in enumerate(each) if positions and positions <= set(part)) for part in plan.ranges
    ]
    assert firsts == sorted(firsts)


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 400)), min_size=1, max_size=10), st.binary(min_size=1))
def test_the_parts_of_a_multipart_body_are_the_bytes_they_say(asked: list[tuple[int, int]], seed: bytes) -> None:
    content = (seed * 4000)[:4000]
    text = ", ".join(f"{start}-{start + count - 1}" for start, count in asked)
    plan = plan_answer(len(content), ETAG, Conditions(range=f"bytes= {text}"))
    headers, pieces = compose(plan, len(content), ETAG, "application/zip")
    said = dict(headers)
    body = b"".join(piece if isinstance(piece, bytes) else content[piece.start : piece.stop] for piece in pieces)
    assert said["Content-Length"] == str(len(body))
    if len(plan.ranges) == 1:
        (only,) = plan.ranges
        assert said["Content-Type"] == "application/zip"
        assert said["Content-Range"] == f"bytes {only.start}-{only.stop - 1}/4000"
        assert body == content[only.start : only.stop]
        return
    assert "Content-Range" not in said
    parts = parse_multipart(said["Content-Type"], body)
    assert [fields["content-type"] for fields, _ in parts] == ["application/zip"] * len(plan.ranges)
    assert [fields["content-range"] for fields, _ in parts] == [
        f"bytes {part.start}-{part.stop - 1}/4000" for part in plan.ranges
    ]
    assert [data for _, data in parts] == [content[part.start : part.stop] for part in plan.ranges]


def test_leading_zeros_do_not_change_a_number() -> None:
    plan = plan_answer(100, ETAG, Conditions(range=f"bytes={'0' * 5000}5-{'0' * 5000}9"))
    assert plan == Plan(206, (range(5, 10),))


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        (",".join(["0-0"] * MAX_RANGES), Plan(206, (range(1),))),
        (",".join(["0-0"] * (MAX_RANGES + 1)), Plan(200, (range(100),))),
        ("," * 100_000, Plan(200, (range(100),))),
        (",,0-1,,", Plan(206, (range(2),))),
        ("", Plan(200, (range(100),))),
        (",", Plan(200, (range(100),))),
        ("0-1,200-", Plan(206, (range(2),))),
        ("200-,300-", Plan(416)),
        ("-0,200-", Plan(416)),
        ("0-1,x", Plan(200, (range(100),))),
        ("0-1,9-8", Plan(200, (range(100),))),
        ("0-,0-,-100", Plan(206, (range(100),))),
    ],
)
def test_lists_of_ranges(text: str, plan: Plan) -> None:
    assert plan_answer(100, ETAG, Conditions(range=f"bytes={text}")) == plan


@given(st.text(max_size=30))
@example("bytes=-")
@example("bytes=１-２")
@example("lines=0-1")
@example("bytes=0-1, bytes=5-6")
def test_any_other_range_is_ignored(text: str) -> None:
    plan = plan_answer(50, ETAG, Conditions(range=text))
    one = r"[ \t]*(?:[0-9]+-[0-9]*|-[0-9]+)?[ \t]*"
    if re.fullmatch(rf"[ \t]*bytes[ \t]*={one}(?:,{one})*", text, re.ASCII | re.IGNORECASE) is None:
        assert plan == Plan(200, (range(50),))


BEFORE = "Tue, 24 Nov 2026 09:59:59 GMT"
MODIFIED = "Tue, 24 Nov 2026 10:00:00 GMT"
AFTER = "Tue, 24 Nov 2026 10:00:01 GMT"
NOW = 1795514400


@pytest.mark.parametrize(
    ("fields", "status"),
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
        ({"range": "bytes=0-4", "if_range": ETAG}, 206),
        ({"range": "bytes=0-4", "if_range": f"W/{ETAG}"}, 200),
        ({"range": "bytes=0-4", "if_range": MODIFIED}, 200),
        ({"range": "bytes=0-4", "if_none_match": ETAG}, 304),
        ({"range": "bytes=99-", "if_range": '"other"'}, 200),
        ({"range": "bytes=99-"}, 416),
        # Dates
        ({"if_modified_since": BEFORE}, 200),
        ({"if_modified_since": MODIFIED}, 304),
        ({"if_modified_since": AFTER}, 304),
        ({"if_modified_since": "yesterday"}, 200),
        ({"if_modified_since": f"{AFTER}, {AFTER}"}, 200),
        ({"if_unmodified_since": BEFORE}, 412),
        ({"if_unmodified_since": MODIFIED}, 200),
        ({"if_unmodified_since": AFTER}, 200),
        ({"if_unmodified_since": "yesterday"}, 200),
        # The order of RFC 9110, 13.2.2: a tag is stronger than a date, and "match" comes before "none match".
        ({"if_match": ETAG, "if_unmodified_since": BEFORE}, 200),
        ({"if_match": '"x"', "if_unmodified_since": AFTER}, 412),
        ({"if_none_match": '"x"', "if_modified_since": AFTER}, 200),
        ({"if_none_match": ETAG, "if_modified_since": BEFORE}, 304),
        ({"if_match": '"x"', "if_none_match": ETAG}, 412),
        ({"if_unmodified_since": BEFORE, "if_none_match": ETAG}, 412),
        ({"if_match": ETAG, "if_none_match": ETAG, "range": "bytes=0-1"}, 304),
        ({"if_modified_since": BEFORE, "range": "bytes=0-1"}, 206),
        ({"if_modified_since": BEFORE, "range": "bytes=99-"}, 416),
        ({"if_modified_since": AFTER, "range": "bytes=99-"}, 304),
    ],
)
def test_conditions(fields: dict[str, str], status: int) -> None:
    modified = parse_date(MODIFIED, NOW)
    assert plan_answer(10, ETAG, Conditions(**fields), modified=modified, now=NOW).status == status


@pytest.mark.parametrize("name", ["if_modified_since", "if_unmodified_since"])
@pytest.mark.parametrize("date", [BEFORE, AFTER, "x"])
def test_without_a_last_modified_dates_mean_nothing(name: str, date: str) -> None:
    assert plan_answer(10, ETAG, Conditions(**{name: date})).status == 200


@given(st.integers(0, 253402300799))
def test_a_date_is_read_as_it_is_written(at: int) -> None:
    assert parse_date(format_date(at), NOW) == at


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("Sunday, 06-Nov-76 08:49:37 GMT", 3371878177),
        ("Sunday, 06-Nov-77 08:49:37 GMT", 247654177),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228799),
        ("Sun, 06 Nov 1994 08:49:37", None),
        ("Sun, 06 Nov 1994 08:49:37 CST", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 24:49:37 GMT", None),
        ("06 Nov 1994", None),
        ("", None),
    ],
)
def test_dates(text: str, wanted: int | None) -> None:
    assert parse_date(text, NOW) == wanted


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
