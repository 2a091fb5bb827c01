"""Files and bytes written to real sockets: in turns, verified before each window, with a minimum data rate."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.worker import read_all, socket_pair
from trionode.server.hypercorn import sendfile
from trionode.server.hypercorn.min_data_rate import MinDataRate
from trionode.server.hypercorn.sendfile import (
    FREE_BYTES,
    WINDOW_BYTES,
    SendTurns,
    ShortFile,
    send_bytes,
    send_copied,
    send_file,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


async def send_zero_copy(ours: trio.SocketStream, fd: int, offset: int, count: int, **options: Any) -> None:
    await send_file(ours.socket, fd, offset, count, options.pop("turns", SendTurns()), **options)


async def send_by_copying(ours: trio.SocketStream, fd: int, offset: int, count: int, **options: Any) -> None:
    await send_copied(ours, fd, offset, count, options.pop("turns", SendTurns()), piece=100_000, **options)


both_ways = pytest.mark.parametrize("send_it", [send_zero_copy, send_by_copying])


async def received(send: Any) -> bytes:
    """Return what arrives of what `send` writes to the socket that it is called with."""
    ours, theirs = socket_pair()
    async with ours, theirs, trio.open_nursery() as nursery:

        async def send_and_close() -> None:
            await send(ours)
            await ours.send_eof()

        nursery.start_soon(send_and_close)
        return await read_all(theirs)


@both_ways
@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (0, 1), (1, FREE_BYTES), (FREE_BYTES - 1, 2), (777, 2 * WINDOW_BYTES)]
)
async def test_a_file_arrives_unchanged(file: int, content: bytes, offset: int, count: int | None, send_it: Any):
    count = len(content) if count is None else count
    assert await received(partial(send_it, fd=file, offset=offset, count=count)) == content[offset : offset + count]
    assert os.lseek(file, 0, os.SEEK_CUR) == 0, "the descriptor's position is not used"


@both_ways
async def test_pages_that_are_not_cached_are_read_into_the_cache_first(
    file: int, content: bytes, monkeypatch: pytest.MonkeyPatch, send_it: Any
):
    read: list[tuple[int, int]] = []
    real = sendfile.read_into_cache

    async def read_into_cache(fd: int, offset: int, size: int) -> None:
        read.append((offset, size))
        await real(fd, offset, size)

    monkeypatch.setattr(sendfile, "is_cached", lambda fd, offset, size: False)
    monkeypatch.setattr(sendfile, "read_into_cache", read_into_cache)
    assert await received(partial(send_it, fd=file, offset=0, count=len(content))) == content
    assert read
    assert all(size <= WINDOW_BYTES for _, size in read)


class ChangedOnce:
    """A file that is found changed at a point, and made right."""

    def __init__(self, change_at: int) -> None:
        self.sent = 0
        self.repaired = 0
        self._change_at = change_at

    @property
    def trusted(self) -> bool:
        return self.repaired > 0 or self.sent < self._change_at

    async def ensure_trusted(self) -> None:
        await trio.lowlevel.checkpoint()
        self.repaired += 1

    def count_sent(self, count: int) -> None:
        self.sent += count


@both_ways
async def test_bytes_are_sent_only_while_they_are_trusted(file: int, content: bytes, send_it: Any):
    verified = ChangedOnce(WINDOW_BYTES)
    assert await received(partial(send_it, fd=file, offset=0, count=len(content), verified=verified)) == content
    assert (verified.sent, verified.repaired) == (len(content), 1)


class Damaged(ChangedOnce):
    """A file that is found changed at a point, and cannot be made right."""

    async def ensure_trusted(self) -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("it cannot be repaired")


@both_ways
async def test_a_file_that_cannot_be_made_right_ends_the_sending(file: int, content: bytes, send_it: Any):
    verified, turns = Damaged(WINDOW_BYTES), SendTurns(1)

    async def send(ours: trio.SocketStream) -> None:
        with pytest.raises(LookupError):
            await send_it(ours, file, 0, len(content), verified=verified, turns=turns)

    data = await received(send)
    assert content.startswith(data)
    assert WINDOW_BYTES <= len(data) == verified.sent < len(content)
    with trio.fail_after(5):
        async with turns:
            pass


@both_ways
async def test_a_file_that_was_truncated_raises(file: int, content: bytes, send_it: Any):
    async def send(ours: trio.SocketStream) -> None:
        with pytest.raises(ShortFile):
            await send_it(ours, file, 0, len(content) + 1)

    assert content.startswith(await received(send))


@both_ways
async def test_a_client_that_leaves_ends_the_sending_and_its_turn(file: int, content: bytes, send_it: Any):
    turns = SendTurns(1)
    ours, theirs = socket_pair(4096)
    async with ours:
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await send_it(ours, file, 0, len(content), turns=turns)
        with trio.fail_after(5):
            async with turns:
                pass


@pytest.mark.parametrize("sender", ["file", "bytes"])
async def test_a_client_that_stops_reading_is_given_up(
    file: int, content: bytes, sender: str, autojump_clock: MockClock
):
    rate, began = MinDataRate(seconds=7), trio.current_time()
    ours, theirs = socket_pair(4096)
    async with ours, theirs:
        send = {
            "file": partial(send_file, ours.socket, file, 0, len(content), SendTurns(), rate=rate),
            "bytes": partial(send_bytes, ours, content, rate),
        }[sender]
        with pytest.raises(trio.TooSlowError):
            await send()
    assert trio.current_time() - began == pytest.approx(7)


@both_ways
async def test_a_turn_is_given_back_at_whatever_moment_the_sending_is_cancelled(
    file: int, content: bytes, send_it: Any
):
    for moment in range(40):
        turns = SendTurns(1)
        ours, theirs = socket_pair(4096)
        async with ours, theirs, trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                async def cancel_later(scope: trio.CancelScope = scope, moment: int = moment) -> None:
                    for _ in range(moment):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(read_some, theirs)
                nursery.start_soon(cancel_later)
                await send_it(ours, file, 0, len(content), turns=turns)
            with trio.fail_after(5):
                async with turns:
                    pass
            nursery.cancel_scope.cancel()


async def read_some(stream: trio.SocketStream) -> None:
    while await stream.receive_some(2048):
        await trio.lowlevel.checkpoint()


async def test_turns_are_given_in_the_order_of_requests():
    turns = SendTurns(1)
    order: list[int] = []

    async def request(number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        async with turns:
            order.append(number)

    async with trio.open_nursery() as nursery, turns:
        for number in range(20):
            await nursery.start(request, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(20))


@pytest.mark.parametrize("already_sent", [0, 1000, FREE_BYTES, 2 * FREE_BYTES])
async def test_the_beginning_of_an_answer_is_sent_without_a_turn(file: int, content: bytes, already_sent: int):
    turns = SendTurns(1)
    ours, theirs = socket_pair()
    async with ours, theirs, trio.open_nursery() as nursery:
        async with turns:
            nursery.start_soon(partial(send_file, ours.socket, file, 0, len(content), turns, already_sent=already_sent))
            await trio.testing.wait_all_tasks_blocked()
            received = bytearray()
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_when_all_blocked, scope)
                while True:
                    received += await theirs.receive_some(1 << 20)
        assert len(received) == max(0, FREE_BYTES - already_sent)
        while len(received) < len(content):
            received += await theirs.receive_some(1 << 20)
        assert received == content


async def cancel_when_all_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked(0.05)
    scope.cancel()
