"""Poll with a deadline, for tests that wait for another process."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

POLL_SECONDS = 0.02


class DeadlineMissedError(AssertionError):
    """The condition did not become true in time."""


async def eventually(check: Callable[[], T | Awaitable[T | None] | None], *, within: float = 10.0, what: str = "") -> T:
    """Call `check` (plain or async) until it returns a true value, and return that.

    An AssertionError or OSError in `check` counts as "not yet"; after `within` seconds it is the cause of
    `DeadlineMissedError`.
    """
    deadline = time.monotonic() + within
    while True:
        problem: Exception | None = None
        try:
            answer = check()
            found = await answer if isinstance(answer, Awaitable) else answer
            if found:
                return found
        except (AssertionError, OSError) as error:
            problem = error
        if time.monotonic() > deadline:
            raise DeadlineMissedError(f"{what or check} did not come true within {within} s") from problem
        await anyio.sleep(POLL_SECONDS)


def eventually_blocking(check: Callable[[], T | None], *, within: float = 10.0, what: str = "") -> T:
    """Do as `eventually` in synchronous code, with a plain `check`."""
    deadline = time.monotonic() + within
    while True:
        problem: Exception | None = None
        try:
            if found := check():
                return found
        except (AssertionError, OSError) as error:
            problem = error
        if time.monotonic() > deadline:
            raise DeadlineMissedError(f"{what or check} did not come true within {within} s") from problem
        time.sleep(POLL_SECONDS)
