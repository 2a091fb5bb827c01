"""Broadcasts and auto-reset events: which waiters are woken, and when."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st

from trionode.events import WAKE_AT_ONCE, AutoResetEvent, Broadcast

WAITERS = 50


class Passes(trio.abc.Instrument):
    """Counts passes of the loop."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_broadcast_wakes_all_waiters_a_few_in_each_pass_in_order():
    broadcast, passes, woken = Broadcast(), Passes(), list[tuple[int, int]]()

    async def wait(number: int) -> None:
        await broadcast.wait()
        woken.append((number, passes.count))

    async with trio.open_nursery() as nursery:
        for number in range(WAITERS):
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(passes)
        broadcast.notify()
    trio.lowlevel.remove_instrument(passes)
    # In one pass, Trio runs tasks in any order.
    in_pass = [at for _, at in sorted(woken)]
    assert len(in_pass) == WAITERS
    assert in_pass == sorted(in_pass)
    assert max(in_pass.count(at) for at in in_pass) <= WAKE_AT_ONCE


@given(st.sets(st.integers(0, WAITERS - 1)), st.sets(st.integers(0, WAITERS - 1)))
def test_a_cancelled_waiter_does_not_keep_others_from_being_woken(before: set[int], meanwhile: set[int]):
    """Cancelled while it waits, or in the pass in which it is woken."""

    async def main() -> None:
        broadcast, woken = Broadcast(), set[int]()
        scopes = [trio.CancelScope() for _ in range(WAITERS)]

        async def wait(number: int) -> None:
            with scopes[number]:
                await broadcast.wait()
                woken.add(number)

        async with trio.open_nursery() as nursery:
            for number in range(WAITERS):
                nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
            for number in before:
                scopes[number].cancel()
            await trio.testing.wait_all_tasks_blocked()
            broadcast.notify()
            for number in meanwhile:
                scopes[number].cancel()
        assert set(range(WAITERS)) - before - meanwhile <= woken <= set(range(WAITERS)) - before

    trio.run(main)


async def test_a_waiter_that_waits_again_waits_for_the_next_notification():
    broadcast, woken = Broadcast(), list[int]()

    async def wait_twice(number: int) -> None:
        for _ in range(2):
            await broadcast.wait()
            woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(WAITERS):
            nursery.start_soon(wait_twice, number)
        for rounds in range(2):
            await trio.testing.wait_all_tasks_blocked()
            assert len(woken) == rounds * WAITERS
            broadcast.notify()
    assert len(woken) == 2 * WAITERS


async def test_a_broadcast_has_no_memory():
    broadcast = Broadcast()
    broadcast.notify()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broadcast.wait)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


async def test_an_auto_reset_event_remembers_that_it_was_set_once():
    event, waits = AutoResetEvent(), list[int]()

    async def wait_again_and_again() -> None:
        while True:
            await event.wait()
            waits.append(len(waits))

    event.set()
    event.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_again_and_again)
        await trio.testing.wait_all_tasks_blocked()
        assert len(waits) == 1
        event.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(waits) == 2
        nursery.cancel_scope.cancel()


async def test_a_wait_that_is_cancelled_leaves_the_event_set():
    event = AutoResetEvent()
    event.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await event.wait()
    assert scope.cancelled_caught
    with trio.fail_after(5):
        await event.wait()
