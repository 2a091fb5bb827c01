"""Reading a request from its ASGI scope."""

from __future__ import annotations

import pytest

from master_shim.protocol.target import Fields, host_of, path_of

LIST = "/api/v1/nodes/list"


@pytest.mark.parametrize(
    ("path", "root_path", "wanted"),
    [
        (LIST, "", LIST),
        (f"/pre{LIST}", "/pre", LIST),  # Starlette, Quart: `root_path` is part of the path
        (LIST, "/pre", LIST),  # other frameworks, and proxies that remove the prefix
        (f"/prefix{LIST}", "/pre", f"/prefix{LIST}"),
        (LIST, "/api", LIST),
        (f"/api{LIST}", "/api/", LIST),
        ("/api/health", "/api", "/health"),
        (LIST, "/api/v1", LIST),
        (f"/api/v1{LIST}", "/api/v1", LIST),
        ("/pre", "/pre", "/"),
        ("/pre/", "/pre", "/"),
        ("", "", ""),
        (f"//{LIST}", "", f"//{LIST}"),
        (f"http://master:8000{LIST}", "", LIST),
        (f"HTTPS://master/pre{LIST}", "/pre", LIST),
        ("http://master", "", "/"),
        (f"ftp://master{LIST}", "", f"ftp://master{LIST}"),
    ],
)
def test_the_path_below_the_mount_point(path: str, root_path: str, wanted: str) -> None:
    assert path_of({"path": path, "root_path": root_path}) == wanted


def test_root_path_is_optional() -> None:
    assert path_of({"path": LIST}) == LIST


@pytest.mark.parametrize(
    ("path", "wanted"), [(LIST, "m:1"), (f"http://x:2{LIST}", "x:2"), ("HTTPS://x", "x"), (f"//x{LIST}", "m:1")]
)
def test_the_host_of_an_absolute_target_precedes_the_host_field(path: str, wanted: str) -> None:
    assert host_of({"path": path}, {"host": "m:1"}) == wanted


def test_repeated_fields_are_joined() -> None:
    fields = Fields([(b"range", b"bytes=0-1"), (b"If-Match", b'"a"'), (b"if-match", b'"\xff"')])
    assert fields == {"range": "bytes=0-1", "if-match": '"a", "\xff"'}
