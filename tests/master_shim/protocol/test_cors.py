"""Cross-origin headers."""

from __future__ import annotations

import pytest

from master_shim.protocol import cors


def test_any_origin_may_read_the_headers_of_a_download() -> None:
    headers = dict(cors.HEADERS)
    assert headers[b"access-control-allow-origin"] == b"*"
    exposed = headers[b"access-control-expose-headers"].split(b", ")
    assert {b"Content-Length", b"Content-Range", b"ETag", b"Repr-Digest", b"Retry-After"} <= set(exposed)


def test_a_preflight_echoes_the_requested_header_names() -> None:
    headers = dict(cors.preflight("GET, HEAD, OPTIONS", "range, if-range"))
    assert headers[b"allow"] == headers[b"access-control-allow-methods"] == b"GET, HEAD, OPTIONS"
    assert headers[b"access-control-allow-headers"] == b"range, if-range"
    assert b"access-control-max-age" in headers


@pytest.mark.parametrize("requested", [None, "", "a\tb: c", "a\r\nb", "é", "x" * 1025])
def test_other_text_is_not_echoed(requested: str | None) -> None:
    assert b"access-control-allow-headers" not in dict(cors.preflight("GET, OPTIONS", requested))
