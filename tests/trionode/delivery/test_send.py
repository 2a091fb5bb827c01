"""Sending a body, and its last message, which a disconnection does not interrupt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from trionode.delivery.send import FINAL_SECONDS, ZERO_COPY, send_shielding_end

if TYPE_CHECKING:
    from trio.testing import MockClock


async def seconds_sending(message: dict[str, Any], takes: float) -> tuple[float, bool]:
    """Return how long sending a message lasts that is cancelled after a second, and whether it was completed."""
    completed = False

    async def send(message: dict[str, Any]) -> None:
        nonlocal completed
        await trio.sleep(takes)
        completed = True

    began = trio.current_time()
    with trio.move_on_after(1):
        await send_shielding_end(send, message)
    return trio.current_time() - began, completed


@pytest.mark.parametrize(
    "message",
    [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"x", "more_body": True},
        {"type": ZERO_COPY, "more_body": True},
    ],
)
async def test_a_message_before_the_last_is_interrupted(message: dict[str, Any], autojump_clock: MockClock):
    assert await seconds_sending(message, 2) == (pytest.approx(1), False)


@pytest.mark.parametrize("fields", [{}, {"more_body": False}])
async def test_the_last_message_is_not_interrupted_for_a_few_seconds(fields: dict[str, Any], autojump_clock: MockClock):
    message = {"type": "http.response.body", "body": b"", **fields}
    assert await seconds_sending(message, 2) == (pytest.approx(2), True)
    assert await seconds_sending(message, 100) == (pytest.approx(FINAL_SECONDS), False)
