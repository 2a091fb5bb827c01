"""A request for a package, and the answer to it, in terms of ASGI."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import trio

from master_shim.protocol import PEER_FIELD, meeting_id_of
from master_shim.protocol.target import Fields, path_of
from store import Digest

from .send import ZERO_COPY

if TYPE_CHECKING:
    from .body import PackageBody

_PATH = re.compile(r"/api/(?:v1/meetings/([^/]+)/download-package|meetings/([^/]+)/download)")

MAX_DIGITS = 17
"""More than any offset has."""

HEAD_SECONDS = 20.0
"""Time limit from a request to the head of its answer. Tablets require it within 30 s."""

METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class PackageRequest:
    """A request for the package of a meeting. `at` is its arrival in Trio's clock."""

    meeting: str
    method: str
    path: str
    fields: Fields
    query: dict[str, str]
    http_version: str
    client: str
    zero_copy: bool
    at: float

    @property
    def version(self) -> Digest | None:
        """The requested version, `v` of the query; None for the current one. Raises `InvalidDigest`."""
        return Digest(self.query["v"]) if "v" in self.query else None

    @property
    def asker(self) -> str:
        """The id of the node that asks; "" for a client."""
        return self.fields.get(PEER_FIELD.lower(), "").partition(";")[0].strip()

    @property
    def urgent(self) -> bool:
        """Whether the node that asks has only the master left to ask."""
        return self.fields.get(PEER_FIELD.lower(), "").endswith(";urgent")

    @property
    def token(self) -> str:
        """The legacy master's token under which another node wants the package; "" if it wants a version."""
        return self.query.get("token", "") if self.asker else ""

    @property
    def begin(self) -> int:
        """The first byte that another node wants of a package whose size is not known."""
        text = self.query.get("from", "0")
        return int(text) if text.isascii() and text.isdigit() and len(text) < MAX_DIGITS else 0

    @property
    def has_body(self) -> bool:
        """Whether the request has, or may have, a body."""
        return "content-length" in self.fields or "transfer-encoding" in self.fields

    @classmethod
    def from_scope(cls, scope: Any) -> PackageRequest | None:
        """Return the request of an ASGI scope; None if it is not for a package."""
        match = _PATH.fullmatch(path_of(scope)) if scope["type"] == "http" else None
        if match is None:
            return None
        query: dict[str, str] = {}
        for name, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
            query.setdefault(name, value)
        client = scope.get("client")
        return cls(
            meeting_id_of(match[1] or match[2]),
            scope["method"],
            scope["path"],
            Fields(scope["headers"]),
            query,
            scope["http_version"],
            client[0] if client else "<local>",  # a Unix socket has no addresses
            ZERO_COPY in (scope.get("extensions") or {}),
            trio.current_time(),
        )


@dataclass(slots=True)
class PackageResponse:
    """An answer. `headers` are in ASGI's form; `body` is short, or a package's."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | PackageBody = b""

    @classmethod
    def error(cls, status: int, detail: str, fields: dict[str, str]) -> PackageResponse:
        """Return `{"detail": ...}` with a status and header fields."""
        body = json.dumps({"detail": detail}, ensure_ascii=False).encode()
        headers = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in fields.items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        return cls(status, headers, body)
