"""Calls of the store that lack room: repeated once after room was made."""

from __future__ import annotations

import errno

import pytest

from store import FillBusy, NeverFits, NoSpace
from trionode.fetch.room import begin_with_room, call_with_room


class Full:
    """A call of a store that raises `errors`, one after the other, and then returns its argument."""

    def __init__(self, *errors: Exception) -> None:
        self.calls = 0
        self.room_made: list[tuple[int, bool]] = []
        self._errors = [*errors]

    def call(self, argument: str) -> str:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return argument

    async def make_room(self, needed: int, *, full_disk: bool = False) -> None:
        self.room_made.append((needed, full_disk))


def from_disk(error: NoSpace) -> NoSpace:
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("errors", "room_made"),
    [([], []), ([NoSpace(10, 3)], [(10, False)]), ([from_disk(NoSpace(10, 0))], [(10, True)])],
)
async def test_a_call_that_lacks_room_is_repeated_after_room_was_made(
    errors: list[Exception], room_made: list[tuple[int, bool]]
):
    full = Full(*errors)
    assert await call_with_room(full.make_room, full.call, "result") == "result"
    assert full.room_made == room_made
    assert full.calls == len(errors) + 1


async def test_a_call_that_still_lacks_room_is_not_repeated_again():
    full = Full(NoSpace(10, 3), NoSpace(10, 5), NoSpace(10, 7))
    with pytest.raises(NoSpace) as caught:
        await call_with_room(full.make_room, full.call, "result")
    assert (caught.value.available, full.calls) == (5, 2)


async def test_no_room_is_made_for_what_never_fits():
    full = Full(NeverFits(10, 3))
    with pytest.raises(NeverFits):
        await call_with_room(full.make_room, full.call, "result")
    assert (full.calls, full.room_made) == (1, [])


async def test_a_fill_that_another_process_has_begun_is_waited_for(autojump_clock: object):
    full = Full(FillBusy("x"), FillBusy("x"), NoSpace(10, 3), FillBusy("x"))
    assert await begin_with_room(full.make_room, full.call, "fill") == "fill"
    assert full.room_made == [(10, False)]
