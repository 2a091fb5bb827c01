"""Reading a request from its ASGI scope: the path below the mount point, and the header fields. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Header = tuple[bytes, bytes]
"""A header field as ASGI has it: the name in lower case."""

_ORIGIN = re.compile(r"https?://([^/]*)", re.IGNORECASE)
"""What precedes the path in an absolute-form target, `GET http://host/path` (RFC 9112, 3.2.2)."""
_API = "/api/v1/"


class Fields(dict[str, str]):
    """Header fields by lower-case name. Repeated fields are joined by a comma (RFC 9110, 5.3)."""

    def __init__(self, headers: Iterable[Header]) -> None:
        super().__init__()
        for name, value in headers:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self[key] = f"{self[key]}, {text}" if key in self else text


def path_of(scope: Mapping[str, Any]) -> str:
    """Return the decoded path of a request, relative to the application's mount point.

    Absolute-form targets are reduced to their path. `root_path` is removed if the path begins with it: some frameworks
    and proxies have removed it already. So "/api/v1/x" with the root path "/api" is left as it is.
    """
    path: str = scope["path"]
    if not path.startswith("/") and (origin := _ORIGIN.match(path)):
        path = path[origin.end() :] or "/"
    root: str = scope.get("root_path", "").rstrip("/")
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :] or "/"
    if not rest.startswith("/") or (path.startswith(_API) and not rest.startswith("/api/")):
        return path
    return rest


def host_of(scope: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    """Return the host, and the port if one is given, that a request names: in an absolute-form target, else in Host."""
    origin = _ORIGIN.match(scope["path"])
    return origin[1] if origin is not None else fields.get("host", "")
