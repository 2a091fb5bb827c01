"""The states of a node: the table of transitions, and what each state allows."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trionode.errors import NodeStopped
from trionode.lifecycle import TRANSITIONS, Lifecycle, NodeEvent, NodeState

STARTING, SERVING, DRAINING = NodeState.STARTING, NodeState.SERVING, NodeState.DRAINING
FAILED, STOPPED = NodeState.FAILED, NodeState.STOPPED
SERVE, DRAIN, FAIL, STOP = NodeEvent.SERVE, NodeEvent.DRAIN, NodeEvent.FAIL, NodeEvent.STOP

TABLE = {
    STARTING: {SERVE: SERVING, DRAIN: STARTING, FAIL: FAILED, STOP: STOPPED},
    SERVING: {DRAIN: DRAINING, FAIL: FAILED, STOP: STOPPED},
    DRAINING: {DRAIN: DRAINING, FAIL: FAILED, STOP: STOPPED},
    FAILED: {SERVE: FAILED, DRAIN: FAILED, FAIL: FAILED, STOP: FAILED},
    STOPPED: {SERVE: STOPPED, DRAIN: STOPPED, FAIL: STOPPED, STOP: STOPPED},
}
"""The table as it should be; an event that is missing in a row is a bug of the program."""

PATHS = {
    STARTING: (),
    SERVING: (SERVE,),
    DRAINING: (SERVE, DRAIN),
    FAILED: (SERVE, FAIL),
    STOPPED: (SERVE, STOP),
}
"""Events that lead to each state."""


def lifecycle_in(state: NodeState) -> Lifecycle:
    lifecycle = Lifecycle()
    for event in PATHS[state]:
        if event is FAIL:
            lifecycle.fail(OSError("the disk is gone"))
        else:
            lifecycle.apply(event)
    assert lifecycle.state is state
    return lifecycle


@pytest.mark.parametrize("event", NodeEvent)
@pytest.mark.parametrize("state", NodeState)
def test_every_event_in_every_state(state: NodeState, event: NodeEvent):
    assert TRANSITIONS.get((state, event)) is TABLE[state].get(event)
    lifecycle = lifecycle_in(state)
    if event not in TABLE[state]:
        with pytest.raises(KeyError):
            lifecycle.apply(event)
        assert lifecycle.state is state
        return
    lifecycle.apply(event)
    assert lifecycle.state is TABLE[state][event]


@pytest.mark.parametrize(
    ("state", "serving", "ready"),
    [
        (STARTING, False, False),
        (SERVING, True, True),
        (DRAINING, True, False),
        (FAILED, False, False),
        (STOPPED, False, False),
    ],
)
def test_a_draining_node_serves_and_is_not_ready(state: NodeState, serving: bool, ready: bool):
    lifecycle = lifecycle_in(state)
    assert (lifecycle.serving, lifecycle.ready) == (serving, ready)


@pytest.mark.parametrize(
    ("state", "not_serving", "not_ready"),
    [
        (STARTING, "it is starting", "it is starting"),
        (SERVING, None, None),
        (DRAINING, None, "it is draining"),
        (FAILED, "it has failed: OSError('the disk is gone')", "it has failed: OSError('the disk is gone')"),
        (STOPPED, "it is stopping", "it is stopping"),
    ],
)
def test_the_error_says_why_a_node_does_not_serve(state: NodeState, not_serving: str | None, not_ready: str | None):
    lifecycle = lifecycle_in(state)
    for require, why in ((lifecycle.require_serving, not_serving), (lifecycle.require_ready, not_ready)):
        if why is None:
            require()
            continue
        with pytest.raises(NodeStopped) as caught:
            require()
        assert caught.value.why == why
        assert str(caught.value) == f"this node is not serving: {why}"


def test_the_first_failure_is_kept():
    lifecycle = lifecycle_in(DRAINING)
    first = OSError("first")
    lifecycle.fail(first)
    lifecycle.fail(OSError("second"))
    lifecycle.apply(STOP)
    assert (lifecycle.state, lifecycle.failure) == (FAILED, first)


async def test_waiting_for_a_failure_ends_with_it():
    lifecycle = lifecycle_in(SERVING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lifecycle.wait_failed)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        lifecycle.fail(OSError("the disk is gone"))
    with trio.fail_after(5):
        await lifecycle.wait_failed()


def test_an_error_after_the_end_is_no_failure():
    lifecycle = lifecycle_in(STOPPED)
    lifecycle.fail(OSError("too late"))
    assert (lifecycle.state, lifecycle.failure) == (STOPPED, None)
