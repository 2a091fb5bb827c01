"""The state table and the looks: what is checked, and what is still promised meanwhile."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master_shim.protocol import HEARTBEAT_SECONDS, HeartbeatAnswer
from store import Chunk, Digest
from trionode.sync.fetch import BATCH_BYTES, GAP_BYTES, plan_batches
from trionode.sync.heartbeat import SLOWEST_BEAT_SECONDS, beat_seconds
from trionode.sync.plan import (
    FIRST_RETRY_SECONDS,
    LAST_RETRY_SECONDS,
    TRANSITIONS,
    Check,
    Event,
    IllegalMove,
    Look,
    Seen,
    State,
    move,
    plan_look,
    retry_seconds,
)

NO_DIGEST = Digest("00" * 32)


def look(token: str, *meeting_ids: str) -> Look:
    return Look(token, {meeting_id: f"title of {meeting_id}" for meeting_id in meeting_ids})


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_pair_moves_by_the_table_or_is_refused(state: State, event: Event):
    if (state, event) in TRANSITIONS:
        assert move(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalMove):
            move(state, event)


def test_nothing_becomes_current_but_by_being_confirmed():
    into_current = {key for key, after in TRANSITIONS.items() if after is State.CURRENT and key[0] is not State.CURRENT}
    assert into_current == {(State.CHECKING, Event.CONFIRM), (State.FILLING, Event.CONFIRM)}


def test_a_doubt_takes_the_promise_back_from_every_state():
    assert all(move(state, Event.DOUBT) is not State.CURRENT for state in State)


def test_an_ended_meeting_stays_ended():
    assert {move(State.ENDED, event) for event in Event} == {State.ENDED}


def test_first_look_checks_all_in_routine():
    plan = plan_look(None, look("t", "a", "b"))
    assert dict(plan.checks) == {"a": Check.ROUTINE, "b": Check.ROUTINE}
    assert not plan.doubted


def test_a_token_still_to_come_needs_no_other_explanation():
    # The node was started while a deployed master waited at its gate: the token that opens it is no restart.
    waiting = plan_look(None, look("none", "a"))
    opened = plan_look(waiting.seen, look("t1", "a"))
    assert (dict(opened.checks), opened.doubted) == ({"a": Check.ROUTINE}, frozenset())


def test_same_look_does_nothing_and_a_full_one_checks_in_routine():
    seen = Seen(look("t", "a"), owed=False)
    assert plan_look(seen, look("t", "a")).checks == {}
    full = plan_look(seen, look("t", "a"), full=True)
    assert (dict(full.checks), full.doubted) == ({"a": Check.ROUTINE}, frozenset())


def test_a_restart_between_two_looks_is_noticed_by_the_token():
    plan = plan_look(Seen(look("t1", "a", "b"), owed=False), look("t2", "a", "b"))
    assert dict(plan.checks) == {"a": Check.CERTAIN, "b": Check.CERTAIN}
    assert plan.doubted == {"a", "b"}


def test_a_started_meeting_explains_one_token():
    first = plan_look(Seen(look("t1", "a"), owed=False), look("t1", "a", "b"))
    assert dict(first.checks) == {"b": Check.CERTAIN}
    assert first.doubted == {"b"}
    gate_open = plan_look(first.seen, look("t2", "a", "b"))
    assert dict(gate_open.checks) == {"a": Check.ROUTINE, "b": Check.ROUTINE}
    assert not gate_open.doubted
    # The next new token has no excuse left.
    assert plan_look(gate_open.seen, look("t3", "a", "b")).doubted == {"a", "b"}


def test_an_ended_meeting_that_comes_back_is_taken_anew():
    ended = plan_look(Seen(look("t1", "a"), owed=False), look("none"))
    assert ended.ended == {"a"}
    again = plan_look(ended.seen, look("t2", "a"))
    assert dict(again.checks) == {"a": Check.CERTAIN}


tokens = st.sampled_from(["t1", "t2", "none"])
looks = st.builds(lambda token, ids: look(token, *ids), tokens, st.sets(st.sampled_from("abc")))


@given(st.lists(looks, min_size=1, max_size=8))
def test_whatever_the_master_says_a_plan_names_only_what_is_there(history: list[Look]):
    seen: Seen | None = None
    for now in history:
        plan = plan_look(seen, now)
        before = set(seen.look.meetings) if seen else set()
        assert plan.checks.keys() <= now.meetings.keys()
        assert plan.doubted <= plan.checks.keys()
        assert plan.ended == before - now.meetings.keys()
        # What is new is always checked, and what is doubted never only in routine.
        assert now.meetings.keys() - before <= plan.checks.keys()
        assert all(plan.checks[meeting_id] is Check.CERTAIN for meeting_id in plan.doubted)
        # A token that changes without any change of the set since the last one is never overlooked.
        if seen and now.token != seen.look.token:
            assert plan.checks.keys() == now.meetings.keys()
        seen = plan.seen


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_retries_wait_longer_and_never_too_long(failures: int, chance: float):
    assert 0 < retry_seconds(failures, chance) <= LAST_RETRY_SECONDS
    assert retry_seconds(failures, chance) <= retry_seconds(failures + 1, chance)
    assert retry_seconds(failures, chance, unbuilt=True) <= FIRST_RETRY_SECONDS


GAPS = st.just(0) | st.integers(0, 2 * GAP_BYTES) | st.integers(0, 1 << 30)


@given(st.lists(st.tuples(GAPS, st.integers(1, 3 << 20) | st.integers(1, 40_000)), max_size=40))
def test_batches_are_adjacent_bounded_and_lose_nothing(gaps_and_sizes: list[tuple[int, int]]):
    chunks: list[Chunk] = []
    offset = 0
    for gap, size in gaps_and_sizes:
        offset += gap
        chunks.append(Chunk(offset, size, NO_DIGEST))
        offset += size
    batches = list(plan_batches(chunks))
    assert [chunk for batch in batches for chunk in batch] == chunks
    for batch in batches:
        assert all(b.offset - (a.offset + a.size) <= GAP_BYTES for a, b in pairwise(batch))
        assert len(batch) == 1 or batch[-1].offset + batch[-1].size - batch[0].offset <= BATCH_BYTES
    for batch, after in pairwise(batches):
        # None could have been asked for together with the next.
        too_far = after[0].offset - (batch[-1].offset + batch[-1].size) > GAP_BYTES
        assert too_far or after[0].offset + after[0].size - batch[0].offset > BATCH_BYTES


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (None, HEARTBEAT_SECONDS),
        (3.0, 3.0),
        (0.0, 1.0),
        (-5.0, 1.0),
        (1e9, SLOWEST_BEAT_SECONDS),
        (float("nan"), SLOWEST_BEAT_SECONDS),
    ],
)
def test_no_answer_makes_a_node_beat_too_seldom_or_without_pause(asked: float | None, seconds: float):
    assert beat_seconds(HeartbeatAnswer(next_seconds=asked)) == seconds
