"""Reading a request for a package from its ASGI scope."""

from __future__ import annotations

from typing import Any

import pytest

from store import InvalidDigest
from trionode.delivery.http import PackageRequest, PackageResponse
from trionode.delivery.send import ZERO_COPY

PATH = "/api/v1/meetings/m1/download-package"


def scope_of(path: str = PATH, **fields: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "path": path,
        "method": "GET",
        "http_version": "1.1",
        "query_string": b"",
        "headers": [],
        "client": ("192.168.1.50", 40000),
        **fields,
    }


def request_of(**fields: Any) -> PackageRequest:
    request = PackageRequest.from_scope(scope_of(**fields))
    assert request is not None
    return request


@pytest.mark.parametrize(
    ("path", "root_path", "meeting"),
    [
        (PATH, "", "m1"),
        ("/api/meetings/m1/download", "", "m1"),
        (f"/mount{PATH}", "/mount", "m1"),
        (PATH, "/mount", "m1"),
        (f"/mounted{PATH}", "/mount", None),
        (f"http://node:8080{PATH}", "", "m1"),
        (f"HTTPS://node/mount{PATH}", "/mount", "m1"),
        (f"ftp://node{PATH}", "", None),
        (f"{PATH}/", "", None),
        (f"/{PATH}", "", None),
        ("/api/v1/meetings//download-package", "", None),
        ("/api/v1/meetings/a/b/download-package", "", None),
        ("*", "", None),
        ("", "", None),
    ],
)
async def test_the_meeting_is_read_from_the_path(path: str, root_path: str, meeting: str | None):
    request = PackageRequest.from_scope(scope_of(path, root_path=root_path))
    assert (None if request is None else request.meeting) == meeting


async def test_only_http_is_a_request():
    assert PackageRequest.from_scope(scope_of(type="websocket")) is None


async def test_the_version_and_the_ticket_are_the_first_of_the_query():
    digest = "0" * 64
    request = request_of(query_string=f"v={digest}&t=ticket&v=x&t=y".encode())
    assert (request.version, request.query["t"]) == (digest, "ticket")
    assert request_of().version is None
    for value in (b"v=", b"v=x", b"v=%ff"):
        with pytest.raises(InvalidDigest):
            _ = request_of(query_string=value).version


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding"])
async def test_a_body_shows_in_the_header_fields(name: bytes):
    assert request_of(headers=[(name, b"0")]).has_body
    assert not request_of(headers=[(b"range", b"bytes=0-")]).has_body


async def test_client_and_zero_copy_are_those_of_the_server():
    assert request_of().client == "192.168.1.50"
    assert request_of(client=None).client == "<local>"
    assert request_of(extensions={ZERO_COPY: {}}).zero_copy
    assert not request_of(extensions=None).zero_copy
    assert not request_of().zero_copy


def test_an_error_is_json_with_the_fields_given():
    response = PackageResponse.error(503, "会议", {"Retry-After": "3"})
    assert (response.status, response.body) == (503, '{"detail": "会议"}'.encode())
    assert dict(response.headers) == {
        b"retry-after": b"3",
        b"content-type": b"application/json",
        b"content-length": b"%d" % len(response.body),
    }
