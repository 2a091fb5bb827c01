"""Cross-origin headers."""

from __future__ import annotations

import pytest

from master_shim.protocol import cors


def test_any_origin_may_read_the_headers_of_a_download() -> None:
    headers = dict(cors.HEADERS)
    assert headers[b"access-control-allow-origin"] == b"*"
    exposed = headers[b"access-control-expose-headers"].split(b", ")
    assert {b"Content-Length", b"Content-Range", b"ETag", b"Repr-Digest", b"Retry-After"} <= set(exposed)


PREFLIGHT = {"origin": "http://tablet", "access-control-request-method": "GET"}


def test_a_preflight_echoes_the_requested_header_names() -> None:
    requested = {**PREFLIGHT, "access-control-request-headers": "authorization, if-range"}
    headers = dict(cors.options_fields("GET, HEAD, OPTIONS", requested))
    assert headers[b"allow"] == headers[b"access-control-allow-methods"] == b"GET, HEAD, OPTIONS"
    assert headers[b"access-control-allow-headers"] == b"authorization, if-range"
    assert headers[b"access-control-max-age"] == b"600"
    assert b"access-control-allow-private-network" not in headers


@pytest.mark.parametrize("requested", [None, "", "a\tb: c", "a\r\nb", "é", "x" * 1025])
def test_other_text_is_not_echoed(requested: str | None) -> None:
    fields = PREFLIGHT if requested is None else {**PREFLIGHT, "access-control-request-headers": requested}
    assert b"access-control-allow-headers" not in dict(cors.options_fields("GET, OPTIONS", fields))


@pytest.mark.parametrize(("asked", "answered"), [("true", b"true"), ("false", None), ("", None)])
def test_a_page_of_a_public_address_may_reach_a_private_one(asked: str, answered: bytes | None) -> None:
    headers = dict(cors.options_fields("GET", {**PREFLIGHT, "access-control-request-private-network": asked}))
    assert headers.get(b"access-control-allow-private-network") == answered


@pytest.mark.parametrize("missing", PREFLIGHT)
def test_only_a_preflight_is_answered_with_what_it_may_have(missing: str) -> None:
    fields = {**PREFLIGHT, "access-control-request-headers": "a", "access-control-request-private-network": "true"}
    del fields[missing]
    assert [name for name, _ in cors.options_fields("GET", fields)] == [b"allow", b"vary"]
