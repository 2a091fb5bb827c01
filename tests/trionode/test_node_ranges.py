"""What is answered to a request for a package. The ranges themselves are held to a model in tests/shim."""

from __future__ import annotations

import pytest

from trionode.delivery.ranges import plan_answer

DIGEST = "ab" * 32
ETAG = f'"{DIGEST}"'


class Fields(dict[str, str]):
    """Header fields as a request has them."""


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
        ({"Range": "bytes=0-1,5-6"}, 206, (0, 7)),
        ({"If-Modified-Since": "Tue, 24 Nov 2099 10:00:00 GMT"}, 200, (0, 100)),
        ({"If-Unmodified-Since": "Tue, 24 Nov 1999 10:00:00 GMT"}, 200, (0, 100)),
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
    assert answer.status == status
    assert answer.pieces == ((range(*span),) if status in {200, 206} else ())
    headers = dict(answer.headers)
    assert "Last-Modified" not in headers
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
