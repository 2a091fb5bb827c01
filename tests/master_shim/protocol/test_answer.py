"""The answer to a request for a package: its status, headers and body."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master_shim.protocol.answer import PackageAnswer, plan_answer
from tests.support.multiparts import parse_multipart

ETAG = '"' + "a" * 64 + '"'
MEDIA_TYPE = "application/zip"


def plan(
    fields: dict[str, str], size: int, method: str = "GET", *, modified: int | None = None, now: float = 1795514400
) -> PackageAnswer:
    return plan_answer(method, fields, size, ETAG, MEDIA_TYPE, modified=modified, now=now)


@pytest.mark.parametrize(
    ("fields", "status", "span"),
    [
        ({}, 200, (0, 100)),
        ({"range": "bytes=10-19"}, 206, (10, 20)),
        ({"range": "bytes=-7"}, 206, (93, 100)),
        ({"range": "bytes=-500"}, 206, (0, 100)),
        ({"range": "bytes=99-"}, 206, (99, 100)),
        ({"range": "bytes=100-"}, 416, (0, 0)),
        ({"range": "bytes=-0"}, 416, (0, 0)),
        ({"range": "bytes=0-1,5-6"}, 206, (0, 7)),
        ({"if-modified-since": "Tue, 24 Nov 2099 10:00:00 GMT"}, 200, (0, 100)),
        ({"if-unmodified-since": "Tue, 24 Nov 1999 10:00:00 GMT"}, 200, (0, 100)),
        ({"range": "lines=0-1"}, 200, (0, 100)),
        ({"range": "bytes=0-9", "if-range": ETAG}, 206, (0, 10)),
        ({"range": "bytes=0-9", "if-range": '"other"'}, 200, (0, 100)),
        ({"range": "bytes=0-9", "if-range": f"W/{ETAG}"}, 200, (0, 100)),
        ({"range": "bytes=0-9", "if-range": "Tue, 24 Nov 2026 10:00:00 GMT"}, 200, (0, 100)),
        ({"if-none-match": ETAG}, 304, (0, 0)),
        ({"if-none-match": f'"x", W/{ETAG}'}, 304, (0, 0)),
        ({"if-none-match": "*"}, 304, (0, 0)),
        ({"if-none-match": '"x"'}, 200, (0, 100)),
        ({"if-none-match": ETAG, "range": "bytes=0-1"}, 304, (0, 0)),
        ({"if-match": '"x"'}, 412, (0, 0)),
        ({"if-match": f"W/{ETAG}"}, 412, (0, 0)),
        ({"if-match": "*", "range": "bytes=1-1"}, 206, (1, 2)),
    ],
)
def test_an_answer_describes_its_body(fields: dict[str, str], status: int, span: tuple[int, int]) -> None:
    answer = plan(fields, 100)
    assert answer.status == status
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    assert headers["etag"] == ETAG
    assert headers["accept-ranges"] == "bytes"
    assert headers.get("content-range") == {206: f"bytes {span[0]}-{span[1] - 1}/100", 416: "bytes */100"}.get(status)
    if status in {200, 206}:
        assert answer.pieces == (range(*span),)
        assert answer.small_body is None
        assert headers["content-length"] == str(span[1] - span[0])
        assert headers["content-type"] == MEDIA_TYPE
    elif status == 304:
        assert answer.small_body == b""
        assert "content-length" not in headers
    else:
        assert answer.small_body is not None
        assert set(json.loads(answer.small_body)) == {"detail"}
        assert headers["content-length"] == str(len(answer.small_body))
        assert headers["content-type"] == "application/json"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("fields", [{}, {"if-none-match": ETAG}, {"if-match": '"x"'}])
def test_head_has_the_headers_of_get_and_no_body(fields: dict[str, str]) -> None:
    head = plan(fields, 100, "HEAD")
    assert (head.status, head.headers) == plan(fields, 100)[:2]
    assert head.small_body == b""


def test_head_has_no_ranges() -> None:
    answer = plan({"range": "bytes=0-1"}, 100, "HEAD")
    assert (answer.status, dict(answer.headers)[b"content-length"]) == (200, b"100")


def test_an_empty_package_has_an_empty_body() -> None:
    answer = plan({}, 0)
    assert (answer.status, answer.pieces, dict(answer.headers)[b"content-length"]) == (200, (), b"0")
    assert plan({"range": "bytes=0-"}, 0).status == 416


BEFORE = "Tue, 24 Nov 2026 09:59:59 GMT"
MODIFIED = "Tue, 24 Nov 2026 10:00:00 GMT"
AFTER = "Tue, 24 Nov 2026 10:00:01 GMT"
NOW = 1795514400


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"if-none-match": ETAG}, 304),
        ({"if-none-match": f"W/{ETAG}"}, 304),
        ({"if-none-match": f'"x", W/"y", {ETAG}'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"x"'}, 200),
        ({"if-none-match": ETAG.strip('"')}, 200),
        ({"if-match": '"x"'}, 412),
        ({"if-match": f"W/{ETAG}"}, 412),
        ({"if-match": f'"x", {ETAG}'}, 200),
        ({"if-match": "*"}, 200),
        ({"range": "bytes=0-4", "if-range": ETAG}, 206),
        ({"range": "bytes=0-4", "if-range": f"W/{ETAG}"}, 200),
        ({"range": "bytes=0-4", "if-range": MODIFIED}, 200),
        ({"range": "bytes=0-4", "if-none-match": ETAG}, 304),
        ({"range": "bytes=99-", "if-range": '"other"'}, 200),
        ({"range": "bytes=99-"}, 416),
        # Dates
        ({"if-modified-since": BEFORE}, 200),
        ({"if-modified-since": MODIFIED}, 304),
        ({"if-modified-since": AFTER}, 304),
        ({"if-modified-since": "yesterday"}, 200),
        ({"if-modified-since": f"{AFTER}, {AFTER}"}, 200),
        ({"if-unmodified-since": BEFORE}, 412),
        ({"if-unmodified-since": MODIFIED}, 200),
        ({"if-unmodified-since": AFTER}, 200),
        ({"if-unmodified-since": "yesterday"}, 200),
        # Precedence (RFC 9110, 13.2.2): an ETag over a date, If-Match over If-None-Match.
        ({"if-match": ETAG, "if-unmodified-since": BEFORE}, 200),
        ({"if-match": '"x"', "if-unmodified-since": AFTER}, 412),
        ({"if-none-match": '"x"', "if-modified-since": AFTER}, 200),
        ({"if-none-match": ETAG, "if-modified-since": BEFORE}, 304),
        ({"if-match": '"x"', "if-none-match": ETAG}, 412),
        ({"if-unmodified-since": BEFORE, "if-none-match": ETAG}, 412),
        ({"if-match": ETAG, "if-none-match": ETAG, "range": "bytes=0-1"}, 304),
        ({"if-modified-since": BEFORE, "range": "bytes=0-1"}, 206),
        ({"if-modified-since": BEFORE, "range": "bytes=99-"}, 416),
        ({"if-modified-since": AFTER, "range": "bytes=99-"}, 304),
    ],
)
def test_conditions(fields: dict[str, str], status: int) -> None:
    answer = plan(fields, 10, modified=NOW)
    assert answer.status == status
    assert dict(answer.headers)[b"last-modified"] == MODIFIED.encode()


@pytest.mark.parametrize("name", ["if-modified-since", "if-unmodified-since"])
@pytest.mark.parametrize("date", [BEFORE, AFTER, "x"])
def test_dates_are_ignored_if_none_is_sent(name: str, date: str) -> None:
    answer = plan({name: date}, 10)
    assert answer.status == 200
    assert b"last-modified" not in dict(answer.headers)


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 400)), min_size=1, max_size=10), st.binary(min_size=1))
def test_the_parts_of_a_multipart_body_are_the_bytes_they_name(requested: list[tuple[int, int]], seed: bytes) -> None:
    content = (seed * 4000)[:4000]
    text = ", ".join(f"{start}-{start + count - 1}" for start, count in requested)
    answer = plan({"range": f"bytes= {text}"}, len(content))
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    body = b"".join(piece if isinstance(piece, bytes) else content[piece.start : piece.stop] for piece in answer.pieces)
    assert headers["content-length"] == str(len(body))
    ranges = [piece for piece in answer.pieces if isinstance(piece, range)]
    if len(ranges) == 1:
        (only,) = answer.pieces
        assert isinstance(only, range)
        assert headers["content-type"] == "application/zip"
        assert headers["content-range"] == f"bytes {only.start}-{only.stop - 1}/4000"
        assert body == content[only.start : only.stop]
        return
    assert "content-range" not in headers
    parts = parse_multipart(headers["content-type"], body)
    assert [fields["content-type"] for fields, _ in parts] == ["application/zip"] * len(ranges)
    assert [fields["content-range"] for fields, _ in parts] == [
        f"bytes {part.start}-{part.stop - 1}/4000" for part in ranges
    ]
    assert [data for _, data in parts] == [content[part.start : part.stop] for part in ranges]
