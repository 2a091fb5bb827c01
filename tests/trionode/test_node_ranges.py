"""What is answered to a request for a package, against a naive reading of RFC 9110."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trionode.delivery.ranges import UNSATISFIABLE, parse_range, plan_answer

DIGEST = "ab" * 32
ETAG = f'"{DIGEST}"'


class Fields(dict[str, str]):
    """Header fields as a request has them."""


def naive(value: str, size: int) -> tuple[int, int] | None:
    """Slice the list of positions by the definition of a byte range, one position at a time."""
    if not value.startswith("bytes=") or "," in value:
        return None
    first, dash, last = value.removeprefix("bytes=").partition("-")
    if not dash or (first and not first.isdigit()) or (last and not last.isdigit()) or not (first or last):
        return None
    if first and last and int(first) > int(last):
        return None
    positions = range(size)
    if first:
        chosen = [at for at in positions if at >= int(first) and (not last or at <= int(last))]
    else:
        chosen = list(positions[-int(last) :]) if int(last) else []
    return (chosen[0], chosen[-1] + 1) if chosen else UNSATISFIABLE


numbers = st.integers(0, 60).map(str) | st.just("")


@given(
    st.builds("bytes={}-{}".format, numbers, numbers) | st.text(string.digits + "bytes=-, ", max_size=14),
    st.integers(1, 50),
)
def test_ranges_are_those_of_the_definition(value: str, size: int):
    spaced = value.replace(" ", "")
    assert spaced != value or parse_range(value, size) == naive(value, size)


@given(st.text(max_size=40), st.integers(1, 1 << 62))
def test_no_text_makes_a_range_outside_the_package(value: str, size: int):
    span = parse_range(f"bytes={value}", size)
    assert span is None or span == UNSATISFIABLE or 0 <= span[0] < span[1] <= size


@pytest.mark.parametrize(
    ("fields", "status", "span"),
    [
        ({}, 200, (0, 100)),
        ({"Range": "bytes=10-19"}, 206, (10, 20)),
        ({"Range": "bytes=-7"}, 206, (93, 100)),
        ({"Range": "bytes=-500"}, 206, (0, 100)),
        ({"Range": "bytes=99-"}, 206, (99, 100)),
        ({"Range": "bytes=100-"}, 416, (0, 0)),
        ({"Range": "bytes=-0"}, 416, (0, 0)),
        ({"Range": "bytes=0-1,5-6"}, 200, (0, 100)),
        ({"Range": "lines=0-1"}, 200, (0, 100)),
        ({"Range": "bytes=0-9", "If-Range": ETAG}, 206, (0, 10)),
        ({"Range": "bytes=0-9", "If-Range": '"other"'}, 200, (0, 100)),
        ({"Range": "bytes=0-9", "If-Range": f"W/{ETAG}"}, 200, (0, 100)),
        ({"Range": "bytes=0-9", "If-Range": "Tue, 24 Nov 2026 10:00:00 GMT"}, 200, (0, 100)),
        ({"If-None-Match": ETAG}, 304, (0, 0)),
        ({"If-None-Match": f'"x", W/{ETAG}'}, 304, (0, 0)),
        ({"If-None-Match": "*"}, 304, (0, 0)),
        ({"If-None-Match": '"x"'}, 200, (0, 100)),
        ({"If-None-Match": ETAG, "Range": "bytes=0-1"}, 304, (0, 0)),
        ({"If-Match": '"x"'}, 412, (0, 0)),
        ({"If-Match": f"W/{ETAG}"}, 412, (0, 0)),
        ({"If-Match": "*", "Range": "bytes=1-1"}, 206, (1, 2)),
    ],
)
def test_conditions_are_weighed_in_the_order_of_the_rfc(fields: dict[str, str], status: int, span: tuple[int, int]):
    answer = plan_answer("GET", Fields(fields), 100, DIGEST)
    assert (answer.status, (answer.start, answer.stop)) == (status, span)
    headers = dict(answer.headers)
    assert headers["ETag"] == ETAG
    assert headers["Accept-Ranges"] == "bytes"
    if status == 416:
        assert headers["Content-Range"] == "bytes */100"
    if status == 206:
        assert headers["Content-Range"] == f"bytes {span[0]}-{span[1] - 1}/100"
    if status in {200, 206}:
        assert headers["Content-Length"] == str(span[1] - span[0])


def test_head_has_no_ranges():
    answer = plan_answer("HEAD", Fields(Range="bytes=0-1"), 100, DIGEST)
    assert (answer.status, dict(answer.headers)["Content-Length"]) == (200, "100")
