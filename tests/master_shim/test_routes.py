"""Which route a path is."""

from __future__ import annotations

import pytest

from master_shim.routes import Route, find


@pytest.mark.parametrize(
    ("path", "route", "argument"),
    [
        ("/api/v1/meetings/m/download-package", Route.DOWNLOAD, "m"),
        ("/api/v1/meetings/status/token", Route.STATUS_TOKEN, ""),
        ("/api/v1/meetings/status/download-package", Route.DOWNLOAD, "status"),
        ("/api/v1/meetings//download-package", Route.DOWNLOAD, ""),
        ("/api/v1/meetings/cafe\u0301/download-package", Route.DOWNLOAD, "caf\u00e9"),
        ("/api/v1/packages/d", Route.PACKAGE, "d"),
        ("/api/v1/packages/d/nodes", Route.PACKAGE_NODES, "d"),
        ("/api/v1/nodes/list", Route.LIST, ""),
        ("/api/v1/nodes/status", Route.NODES_STATUS, ""),
        ("/", Route.ROOT, ""),
    ],
)
def test_paths_of_routes(path: str, route: Route, argument: str) -> None:
    assert find(path) == (route, argument)


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
def test_other_paths(path: str) -> None:
    assert find(path) is None
