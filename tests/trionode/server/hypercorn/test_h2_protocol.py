"""HTTP/2 of a worker: answers that are not completed, clients that leave, and any frames in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h2.connection
import h2.errors
import h2.events
import hypothesis.strategies as st
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app
from hypothesis import given, settings

from tests.support.waiting import eventually
from tests.support.worker import serving
from trionode.server.hypercorn.h2_protocol import IdlingH2Protocol

if TYPE_CHECKING:
    from trionode.server.hypercorn import ConnectionLimits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "x")]
LARGE = bytes(1 << 20)


async def cut_answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begin", "more_body": True})
    if scope["path"] == "/crash":
        raise RuntimeError


async def send_large(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LARGE})


async def test_an_answer_that_is_not_completed_is_reset(limits: ConnectionLimits):
    client = h2.connection.H2Connection()
    client.initiate_connection()
    for stream, path in ((1, "/"), (3, "/crash")):
        client.send_headers(stream, [(name, path if name == ":path" else value) for name, value in REQUEST], True)
    async with serving(cut_answer) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(client.data_to_send())
        resets: dict[int | None, object] = {}
        with trio.fail_after(20):
            while len(resets) < 2:
                for event in client.receive_data(await stream.receive_some()):
                    assert not isinstance(event, h2.events.StreamEnded)
                    if isinstance(event, h2.events.StreamReset):
                        resets[event.stream_id] = event.error_code
    assert resets == dict.fromkeys((1, 3), h2.errors.ErrorCodes.INTERNAL_ERROR)


async def test_a_client_that_leaves_with_its_window_closed_is_not_waited_for(limits: ConnectionLimits):
    limits.min_data_rate.configure(1000, 64 << 10)
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.send_headers(1, REQUEST, end_stream=True)
    async with serving(send_large) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(client.data_to_send())
            received = 0
            while received < 65_535:
                events = client.receive_data(await stream.receive_some())
                received += sum(len(event.data) for event in events if isinstance(event, h2.events.DataReceived))
        await eventually(lambda: limits.open_connections == 0)


# -- any frames


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b":method", b":path", b":scheme", b":authority", b":protocol", b"content-length", b"x"]),
        st.sampled_from([b"GET", b"CONNECT", b"/", b"\xff", b"", b"http", b"x", b"3", b"websocket"]),
    ),
    max_size=6,
)


def encode(fields: list[tuple[bytes, bytes]], complete: bool) -> bytes:
    """Return the fields of a request, or only `fields`, encoded without the table of earlier ones."""
    whole = {b":method": b"GET", b":path": b"/", b":scheme": b"http", b":authority": b"x"} | dict(fields)
    return h2.connection.H2Connection().encoder.encode(list(whole.items()) if complete else fields)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


PAYLOADS = st.sampled_from([0, 1, 4, 5, 6, 8]).flatmap(lambda size: st.binary(min_size=size, max_size=size))
FLAGS = st.sampled_from([0x0, 0x1, 0x4, 0x5, 0x25, 0x8, 0xFF])
STREAMS = st.integers(0, 7)
FRAMES = (
    st.builds(frame, st.just(1), FLAGS, STREAMS, st.builds(encode, FIELDS, st.just(value=True)))
    | st.builds(frame, st.just(1), FLAGS, STREAMS, st.builds(encode, FIELDS, st.just(value=False)))
    | st.builds(frame, st.integers(0, 12), FLAGS, STREAMS, PAYLOADS)
    | PAYLOADS
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(FRAMES, max_size=6).map(b"".join), max_size=4))
def test_no_frames_crash_a_connection(parts: list[bytes]):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async def main() -> None:
        closed = trio.Event()

        async def send(event: object) -> None:
            if isinstance(event, Closed):
                closed.set()

        wrapped = wrap_app(app, 1 << 16, mode="asgi")
        async with TaskGroup() as group:
            protocol = IdlingH2Protocol(
                wrapped, Config(), WorkerContext(None), group, ConnectionState({}), False, None, None, send
            )
            await protocol.initiate()
            await protocol.handle(RawData(PREFACE))
            for data in parts:
                if not closed.is_set():
                    await protocol.handle(RawData(data))
                await trio.lowlevel.checkpoint()
            await protocol.handle(Closed())

    trio.run(main)
