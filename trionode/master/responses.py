"""Reading a master's answers: status, error detail, bounded bodies, and the two forms of its meeting list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from master_shim import protocol

from ..errors import OriginError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import httpx

API = "/api/v1"
"""The path of every route of a master, after that of its base URL."""

MAX_DETAIL_BYTES = 64 << 10
"""Size limit of the body of an error answer."""

MAX_DETAIL_CHARS = 200
"""Length limit of the reason taken from an error answer."""

IN_PROGRESS = "进行中"
"""The deployed master's status of a meeting in progress."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MeetingList:
    """The answer to a poll: the token, the titles of the meetings in progress by id, and the ids that are invalid."""

    token: str
    meetings: Mapping[str, str]
    invalid: frozenset[str] = frozenset()


async def expect_status(response: httpx.Response, status: int) -> None:
    """Raise `OriginError` unless the answer has this status and is no web page, with what came instead."""
    page = response.headers.get("Content-Type", "").lower().startswith("text/html")
    if response.status_code == status and not page:
        return
    url = response.request.url.copy_with(userinfo=b"")  # a password belongs in no message
    what = f"{response.request.method} {url} was answered {response.status_code}"
    location = protocol.one_line(response.headers.get("Location", ""), MAX_DETAIL_CHARS)
    path = url.path.rpartition(f"{API}/")[0]
    if location:
        what += f", a redirect to {location}: is main_server right?"
    elif page and response.status_code >= 500:
        what += " with a web page, as a proxy does while the master is away"
    elif page:
        what += " with a web page instead of a master's answer: is main_server right?"
    elif detail := await _detail(response):
        what += f": {detail}"
    if response.status_code == 404 and path:
        what += f"; main_server has the path {path!r}, to which {API} is added: is it right?"
    raise OriginError(what, response.status_code)


async def _detail(response: httpx.Response) -> str:
    """Return the `detail` of an error's JSON as one short line, or "" if there is none.

    A short answer is read to its end, so that the connection can be reused.
    """
    try:
        body = await read_body(response, MAX_DETAIL_BYTES)
        detail = msgspec.json.decode(body, type=_Error).detail
    except (OriginError, *protocol.UNREADABLE):
        return ""
    return protocol.one_line(detail, MAX_DETAIL_CHARS) if isinstance(detail, str) else ""


class _Error(msgspec.Struct):
    detail: object = None


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """Return the decompressed body. Raises `OriginError` as soon as it is longer than `limit` bytes.

    One layer of gzip at most: one read of the network then cannot grow beyond some 64 MB before its size is checked;
    each further layer could multiply it by a thousand.
    """
    refuse_coding(response, {"identity", "gzip"})
    body = bytearray()
    async for data in response.aiter_bytes():
        body += data
        if len(body) > limit:
            raise OriginError(f"the answer is larger than {limit} bytes")
    return bytes(body)


def refuse_coding(response: httpx.Response, accepted: set[str]) -> None:
    """Raise `OriginError` if the body has a content coding that was not accepted."""
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in accepted:
        raise OriginError(f"the answer has a content coding that was not accepted: {coding[:80]}")


def decode(body: bytes, kind: type[T]) -> T:
    """Return the message in a JSON body. Raises `OriginError` if it is not of this kind."""
    try:
        return msgspec.json.decode(body, type=kind)
    except protocol.UNREADABLE as error:
        raise OriginError(f"unexpected JSON: {error}") from error


def meetings_of_node_status(body: bytes) -> MeetingList:
    """Return the list in an answer of `status/node`. Raises `OriginError`."""
    status = decode(body, protocol.NodeStatus)
    meetings = status.active_meetings
    if meetings is None:
        # Some deployed masters send a single meeting, and null or nothing when there is none.
        meetings = (status.active_meeting,) if status.active_meeting is not None else ()
    return _list(status.id, meetings)


def meetings_of_token_status(body: bytes) -> MeetingList:
    """Return the list in an answer of `status/token`. Raises `OriginError`."""
    status = decode(body, protocol.TokenStatus)
    # Older masters list every meeting with its status, newer ones only those in progress, without one.
    return _list(status.id, (meeting for meeting in status.meetings if meeting.status in {None, IN_PROGRESS}))


def _list(token: str, meetings: Iterable[protocol.MeetingName | protocol.TokenMeeting]) -> MeetingList:
    titles: dict[str, str] = {}
    invalid: set[str] = set()
    for meeting in meetings:
        if protocol.is_meeting_id(meeting.id):
            titles[meeting.id] = protocol.one_line(meeting.title)
        else:
            invalid.add(meeting.id)
    return MeetingList(token, titles, frozenset(invalid))
