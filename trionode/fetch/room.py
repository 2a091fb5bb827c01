"""Store calls that may need room: run in a worker thread, and repeated once after room was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, TypeVarTuple, Unpack

import trio

from store import FillBusy, NeverFits, NoSpace

from ..supervision import read_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

BUSY_POLL_SECONDS = 0.5
"""Interval between attempts to begin a fill that another process, such as an import, has locked."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class MakeRoom(Protocol):
    """Makes room for a number of bytes; see `upkeep.eviction.Evictor.make_room`. Raises `NeverFits`, `NoSpace`."""

    async def __call__(self, needed: int, *, full_disk: bool = False) -> None:
        """Make room."""
        ...


async def call_with_room(make_room: MakeRoom, call: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
    """Make a store call in a worker thread; if it lacks room, make room and repeat it once.

    A store call that raises `NoSpace` has changed nothing. Raises `NoSpace` or `NeverFits` if no room could be made,
    or too little.
    """
    try:
        return await read_in_thread(call, *arguments)
    except NeverFits:
        raise
    except NoSpace as full:
        # An OSError as the cause: the disk is full. Without it, the store's own limits are reached.
        await make_room(full.needed, full_disk=isinstance(full.__cause__, OSError))
    return await read_in_thread(call, *arguments)


async def begin_with_room(make_room: MakeRoom, begin: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
    """Begin a fill as `call_with_room` does, waiting while another process has one of the same name."""
    while True:
        try:
            return await call_with_room(make_room, begin, *arguments)
        except FillBusy:
            await trio.sleep(BUSY_POLL_SECONDS)
