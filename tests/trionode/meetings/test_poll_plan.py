"""What follows from a poll: which meetings are checked, invalidated, or over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master_shim.protocol import NO_TOKEN
from trionode.master.responses import MeetingList
from trionode.meetings.poll_plan import Check, LastPoll, plan_poll


def listed(token: str, *meeting_ids: str) -> MeetingList:
    return MeetingList(token, {meeting_id: f"title of {meeting_id}" for meeting_id in meeting_ids})


def test_the_first_poll_has_checks_by_the_token_of_what_was_confirmed_under_it():
    plan = plan_poll(None, listed("t", "a", "b", "c", "d"), {"a": "t", "b": "earlier", "c": "", "e": "t"})
    certain = dict.fromkeys("bcd", Check.CERTAIN)
    assert dict(plan.checks) == {"a": Check.TOKEN, **certain}
    assert not plan.invalidated


def test_an_invalid_id_is_reported_once():
    first = plan_poll(None, MeetingList("t", {}, frozenset({"a/b"})), {})
    assert first.newly_invalid == {"a/b"}
    second = plan_poll(first.poll, MeetingList("t", {}, frozenset({"a/b", "c/d"})), {})
    assert second.newly_invalid == {"c/d"}


@pytest.mark.parametrize("token", ["", NO_TOKEN])
def test_no_token_confirms_nothing(token: str):
    assert dict(plan_poll(None, listed(token, "a"), {"a": token}).checks) == {"a": Check.CERTAIN}


def test_a_first_token_is_no_sign_of_a_restart():
    # The node was started while a deployed master waited for its nodes: the token that follows is no restart.
    waiting = plan_poll(None, listed("none", "a"), {})
    opened = plan_poll(waiting.poll, listed("t1", "a"), {})
    assert (dict(opened.checks), opened.invalidated) == ({"a": Check.ROUTINE}, frozenset())


def test_an_unchanged_list_needs_no_check_and_a_full_poll_routine_ones():
    last = LastPoll(listed("t", "a"), token_pending=False)
    assert plan_poll(last, listed("t", "a"), {}).checks == {}
    full = plan_poll(last, listed("t", "a"), {}, full=True)
    assert (dict(full.checks), full.invalidated) == ({"a": Check.ROUTINE}, frozenset())


def test_a_restart_between_two_polls_shows_in_the_token():
    plan = plan_poll(LastPoll(listed("t1", "a", "b"), token_pending=False), listed("t2", "a", "b"), {})
    assert dict(plan.checks) == {"a": Check.CERTAIN, "b": Check.CERTAIN}
    assert plan.invalidated == {"a", "b"}


def test_a_started_meeting_explains_one_token():
    first = plan_poll(LastPoll(listed("t1", "a"), token_pending=False), listed("t1", "a", "b"), {})
    assert dict(first.checks) == {"b": Check.CERTAIN}
    assert first.invalidated == {"b"}
    gate_open = plan_poll(first.poll, listed("t2", "a", "b"), {})
    assert dict(gate_open.checks) == {"a": Check.ROUTINE, "b": Check.ROUTINE}
    assert not gate_open.invalidated
    # Nothing explains the next new token.
    assert plan_poll(gate_open.poll, listed("t3", "a", "b"), {}).invalidated == {"a", "b"}


def test_a_meeting_that_ended_and_started_again_is_checked_for_certain():
    ended = plan_poll(LastPoll(listed("t1", "a"), token_pending=False), listed("none"), {})
    assert ended.ended == {"a"}
    again = plan_poll(ended.poll, listed("t2", "a"), {})
    assert dict(again.checks) == {"a": Check.CERTAIN}


tokens = st.sampled_from(["t1", "t2", "none"])
polls = st.builds(lambda token, ids: listed(token, *ids), tokens, st.sets(st.sampled_from("abc")))


@given(st.lists(polls, min_size=1, max_size=8))
def test_a_plan_names_only_meetings_of_the_lists(history: list[MeetingList]):
    last: LastPoll | None = None
    for now in history:
        plan = plan_poll(last, now, {})
        before = set(last.listed.meetings) if last else set()
        assert plan.checks.keys() <= now.meetings.keys()
        assert plan.invalidated <= plan.checks.keys()
        assert plan.ended == before - now.meetings.keys()
        # A new meeting is always checked, and an invalidated one never only in routine.
        assert now.meetings.keys() - before <= plan.checks.keys()
        assert all(plan.checks[meeting_id] is Check.CERTAIN for meeting_id in plan.invalidated)
        # A token that changes without any change of the set since the last one is never missed.
        if last and now.token != last.listed.token:
            assert plan.checks.keys() == now.meetings.keys()
        last = plan.poll
