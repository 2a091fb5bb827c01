"""The routes of packages: an ASGI application of their own, in front of the one that has the others.

Quart takes longer to find and to leave a handler than a package of 1 MB takes to be sent (see benchmarks/README.md), so
what tablets ask for does not pass through it.
"""

from __future__ import annotations

import functools
import json
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import trio

from master_shim.names import attachment
from master_shim.protocol import is_meeting_id
from store import Digest, InvalidDigest

from ..answers import CORS_FIELDS, answer_to
from ..errors import FillFailed, MeetingUnknown, MethodRefused
from ..sync.active import ActiveFill
from .body import PackageBody
from .digests import is_wanted
from .download import Asked, Download
from .ranges import UNKNOWN, Answer, plan_answer
from .sending import ZERO_COPY, end_shielded, send_package
from .source import acquire, at_once

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..node import Node
    from .checked import CheckedLease

    Application = Callable[[Any, Any, Any], Awaitable[None]]
    Source = CheckedLease | ActiveFill

_ORIGIN = re.compile(r"https?://[^/]*", re.IGNORECASE)
"""What stands before the path where a request names the server, as to a proxy (RFC 9112, 3.2.2)."""

_PATH = re.compile(r"/api/(?:v1/meetings/([^/]+)/download-package|meetings/([^/]+)/download)")

METHODS = ("GET", "HEAD", "OPTIONS")

REFUSALS = {
    412: "The package is not the one that was asked for",
    416: "The package has no such bytes",
}


class Fields(dict[str, str]):
    """A request's header fields by name, whatever its case; those that occur twice are joined (RFC 9110, 5.3)."""

    @classmethod
    def of(cls, headers: list[tuple[bytes, bytes]]) -> Fields:
        """Make it from what a server hands over."""
        made = cls()
        for name, value in headers:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            made[key] = f"{made[key]}, {text}" if key in made else text
        return made

    def get(self, name: str) -> str | None:  # type: ignore[override]
        """Return a field's value, or None."""
        return super().get(name.lower())


@dataclass(frozen=True, slots=True)
class Request:
    """A request for the package of a meeting. `at` is the loop's time at which it came."""

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
        """The version that is asked for; None: the current one. Raises `InvalidDigest`."""
        return Digest(self.query["v"]) if "v" in self.query else None

    @property
    def has_body(self) -> bool:
        """Whether a body comes, or may come."""
        return "content-length" in self.fields or "transfer-encoding" in self.fields

    @classmethod
    def of(cls, scope: Any, meeting: str) -> Request:
        """Make it from an ASGI scope."""
        query: dict[str, str] = {}
        for name, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
            query.setdefault(name, value)
        client = scope.get("client")
        return cls(
            meeting,
            scope["method"],
            scope["path"],
            Fields.of(scope["headers"]),
            query,
            scope["http_version"],
            client[0] if client else "<local>",  # a Unix socket has no addresses
            ZERO_COPY in (scope.get("extensions") or {}),
            trio.current_time(),
        )


@dataclass(slots=True)
class Response:
    """What is answered. `headers` are as ASGI wants them; `body` is small, or a package's."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | PackageBody = b""


def meeting_of(scope: Any) -> str | None:
    """Return the meeting whose package an ASGI scope asks for; None when it asks for something else."""
    if scope["type"] != "http":
        return None
    path, root = scope["path"], scope.get("root_path", "")
    if origin := _ORIGIN.match(path):
        path = path[origin.end() :]
    match = _PATH.fullmatch(path.removeprefix(root)) if path.startswith(root) else None
    return None if match is None else match[1] or match[2]


class PackageRoutes:
    """The ASGI application: it answers what is asked of packages, and hands everything else on to `rest`."""

    def __init__(self, node: Node, rest: Application) -> None:
        self._node = node
        self._rest = rest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        meeting = meeting_of(scope)
        if meeting is None:
            await self._rest(scope, receive, send)
            return
        request = Request.of(scope, meeting)
        # The lease and the place among the downloads are given back here, however it ends.
        with ExitStack() as stack:
            source = self._at_once(request)
            if source is not None:
                stack.enter_context(source)
            if source is not None and request.zero_copy and not request.has_body and not self._node.downloads.limit:
                # It waits for nothing but the client, and a client that has left shows when something is sent. Not
                # with a limit, where it may stand in line. And not with a body, which somebody has to take: the
                # server puts the end of the answer behind it in a short queue, and would wait for ever.
                await self._respond(stack, request, source, send)
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
                await self._respond(stack, request, source, functools.partial(end_shielded, send))
                nursery.cancel_scope.cancel()

    def _at_once(self, request: Request) -> CheckedLease | None:
        """Return what a request is answered from if that can be told without waiting for anything."""
        if not self._node.serving or not is_meeting_id(request.meeting) or request.method not in {"GET", "HEAD"}:
            return None
        try:
            version = request.version
        except InvalidDigest:
            return None
        return at_once(self._node.meetings, request.meeting, version)

    async def _respond(self, stack: ExitStack, request: Request, source: Source | None, send: Any) -> None:
        try:
            response = await self._answer(stack, request, source)
        except Exception as error:  # noqa: BLE001 - the table says what each is answered with
            status, detail, fields = answer_to(error, request.path)
            response = _explain(status, detail, fields)
        headers = response.headers + CORS_FIELDS
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        body = response.body
        if isinstance(body, PackageBody):
            if not await send_package(send, body, zero_copy=request.zero_copy):
                # Returning without the last message makes the server cut the connection: the client sees a failure
                # and never a short file.
                return
            body = b""
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer(self, stack: ExitStack, request: Request, source: Source | None) -> Response:
        """Decide on the answer; `v` (a digest) makes it exact, `t` is the ticket of a redirect."""
        node = self._node
        if request.method not in METHODS:
            raise MethodRefused(METHODS)
        if request.method == "OPTIONS":
            return Response(200, [(b"allow", ", ".join(METHODS).encode()), (b"content-length", b"0")])
        if not is_meeting_id(request.meeting):
            raise MeetingUnknown(request.meeting)
        node.require_serving()
        version = request.version
        if ticket := request.query.get("t"):
            node.pulse.saw_ticket(ticket)
        if source is None:
            source = await self._acquire(stack, request, version)
        answer = _plan(request, source)
        if answer.status in REFUSALS:
            return _refuse(answer)
        body: bytes | PackageBody = b""
        if answer.status in {200, 206} and request.method == "GET":
            body = await self._begin(stack, request, source, answer)
        return Response(answer.status, await self._headers(request, source, answer, exact=version is not None), body)

    async def _acquire(self, stack: ExitStack, request: Request, version: Digest | None) -> Source:
        source = await acquire(self._node.meetings, request.meeting, version)
        if isinstance(source, ActiveFill) and source.size is None and request.http_version < "1.1":
            # The end of such a body is the end of the connection, which looks the same when it is cut: wait for a size.
            await source.over()
            source = await acquire(self._node.meetings, request.meeting, version)
        stack.enter_context(source.followed() if isinstance(source, ActiveFill) else source)
        return source

    async def _begin(self, stack: ExitStack, request: Request, source: Source, answer: Answer) -> PackageBody:
        """Wait for a place among the downloads, and return what is sent then."""
        node = self._node
        asked = Asked(request.meeting, source.digest, request.client, request.fields.get("Range"), request.at)
        download = Download(node.downloads, asked)
        stack.callback(download.close)
        await download.admitted(node.settings.queue_seconds)
        if isinstance(source, ActiveFill) and source.error is not None:
            # It failed while this waited: that can still be said, and not only be shown by a cut.
            raise FillFailed(str(source.error))
        download.body = PackageBody(source, answer.pieces, node.downloads, request.client)
        return download.body

    async def _headers(
        self, request: Request, source: Source, answer: Answer, *, exact: bool
    ) -> list[tuple[bytes, bytes]]:
        fields = dict(answer.headers)
        fields["Cache-Control"] = "public, max-age=31536000, immutable" if exact else "no-cache"
        if not isinstance(source, ActiveFill) and is_wanted(request.fields.get("Want-Repr-Digest")):
            digest = await self._node.repr_digests.of(source)
            if digest is not None:
                fields["Repr-Digest"] = digest
        if answer.status != 304:
            fields["Content-Disposition"] = attachment(f"meeting_{request.meeting}.zip").decode("ascii")
        return _encode(fields)


def _plan(request: Request, source: Source) -> Answer:
    if source.size is None or source.digest is None:
        # A legacy master's package on its way: neither its size nor its digest is known, so it is sent whole.
        return UNKNOWN
    return plan_answer(request.method, request.fields, source.size, source.digest)


def _refuse(answer: Answer) -> Response:
    fields = {name: value for name, value in answer.headers if name != "Content-Length"}
    return _explain(answer.status, REFUSALS[answer.status], fields | {"Cache-Control": "no-store"})


def _explain(status: int, detail: str, fields: dict[str, str]) -> Response:
    body = json.dumps({"detail": detail}, ensure_ascii=False).encode()
    fields = fields | {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return Response(status, _encode(fields), body)


def _encode(fields: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in fields.items()]


async def _cancel_when_gone(receive: Any, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the server says that the client is gone. A body that comes is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
