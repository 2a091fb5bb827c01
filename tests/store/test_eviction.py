from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import (
    Digest,
    NeverFits,
    NoSpace,
    Ref,
    Usage,
    Version,
    plan_eviction,
)
from store.eviction import GRACE_SECONDS, JUST_LEFT_SECONDS, LOW_WATER, RETIRED_SECONDS
from store.records import CLOCK_STEP_SECONDS

NOW = 1_000_000.0


FREE = 10**9


def digest(number: int) -> Digest:
    return Digest(f"{number:064x}")


def version(number: int, size: int = 100, age: float = 5000, *, in_use: bool = False) -> Version:
    return Version(digest(number), size, NOW - age, in_use=in_use)


def ref(number: int, meeting: str = "", **fields) -> Ref:
    return Ref(meeting or f"m{number}", digest(number), **{"in_progress": False, **fields})


def ended(number: int, ago: float = 2 * GRACE_SECONDS, meeting: str = "") -> Ref:
    return ref(number, meeting, ended_at=NOW - ago)


def plan(versions, refs, needed, *, limit=1000, free=FREE, total=FREE, filling=0, draining=0, **options):
    usage = Usage(sum(v.size for v in versions), filling, free, total, limit, draining)
    return [int(d, 16) for d in plan_eviction(versions, refs, usage, needed, NOW, **options)]


def test_nothing_is_evicted_when_the_bytes_fit():
    assert plan([version(1)], [], 900) == []


def test_the_least_recently_used_is_evicted_first_down_to_the_low_water_mark():
    versions = [version(n, age=5000 + n) for n in range(10)]
    refs = [ended(n) for n in range(10)]
    assert plan(versions, refs, 100) == [9, 8]  # one would be enough, two reach 900
    assert plan(versions, refs, 100, low_water=1.0) == [9]


@pytest.mark.parametrize("later", [lambda n: ended(n, ago=GRACE_SECONDS - 1), ref])
def test_only_old_versions_are_evicted_ahead_of_need(later):
    versions = [version(n, age=5000 + n) for n in range(10)]
    refs = [ended(8), *(later(n) for n in range(10) if n != 8)]
    assert plan(versions, refs, 0, spare=50) == [8]
    assert plan(versions, refs, 100) == [8]
    assert plan(versions, refs, 200) == [8, 9]
    assert plan(versions, [later(n) for n in range(10)], 0, spare=50) == []


def test_nothing_is_evicted_ahead_of_need_while_there_is_enough_to_spare():
    assert plan([version(1)], [], 0, spare=900) == []
    assert plan([version(1), version(2, age=9000)], [], 0, spare=801, low_water=1.0) == [2]
    assert plan([version(1)], [], 0, spare=2000) == [1]


def test_draining_bytes_count_as_free():
    versions = [version(n, age=5000 + n) for n in range(4)]
    assert plan(versions, [], 150, limit=0, free=50) == [3]
    assert plan(versions, [], 150, limit=0, free=50, draining=99) == [3]
    assert plan(versions, [], 150, limit=0, free=50, draining=100) == []
    assert plan(versions, [], 250, limit=0, free=50, draining=100) == [3]
    kept = [ref(n, in_progress=True) for n in range(4)]
    with pytest.raises(NoSpace) as caught:
        plan(versions, kept, 250, limit=0, free=50, draining=100)
    assert (type(caught.value), caught.value.available) == (NoSpace, 150)
    with pytest.raises(NeverFits):
        plan(versions, kept, 551, limit=0, free=50, draining=100, total=550)


def test_versions_of_ended_meetings_and_without_a_ref_are_evicted_first():
    versions = [version(n, age=age) for n, age in enumerate([9000, 8000, 5000, 4000])]
    refs = [ref(0), ref(1), ended(2)]
    assert plan(versions, refs, 100, limit=400, low_water=1.0) == [2]
    assert plan(versions, refs, 200, limit=400, low_water=1.0) == [2, 3]
    assert plan(versions, refs, 300, limit=400, low_water=1.0) == [2, 3, 0]


@pytest.mark.parametrize("keeping", [ref(1, pinned=True), ref(1, in_progress=True), ref(1, "x", in_progress=True)])
def test_pinned_and_current_versions_are_never_evicted(keeping):
    with pytest.raises(NoSpace) as caught:
        plan([version(1)], [keeping, ended(1, meeting="another")], 950)
    assert not isinstance(caught.value, NeverFits)
    assert (caught.value.needed, caught.value.available) == (950, 900)


@pytest.mark.parametrize("refs", [[], [ended(1)], [ended(1, ago=1)]])
def test_a_version_that_is_being_sent_is_never_evicted(refs):
    with pytest.raises(NoSpace):
        plan([version(1, in_use=True)], refs, 950)
    assert plan([version(1, in_use=True), version(2, age=1)], refs, 850) == [2]


def test_what_ended_lately_is_evicted_after_what_is_old_and_the_last_minute_last_of_all():
    versions = [
        version(1, age=30),
        version(2, age=RETIRED_SECONDS - 1),
        version(3, age=20),
        version(4, age=3500),
        version(5, age=8000),
        version(6, age=3000),
        version(7, age=RETIRED_SECONDS),
    ]
    refs = [
        ref(1),
        ended(3, ago=JUST_LEFT_SECONDS - 1),
        ended(4, ago=3000),
        ended(5, ago=10),
        ended(6, ago=GRACE_SECONDS),
    ]
    order = [6, 7, 4, 2, 1, 5, 3]
    for count in range(1, 8):
        assert plan(versions, refs, 100 * count, limit=700, low_water=1.0) == order[:count]


def test_a_version_of_several_meetings_is_evicted_with_the_last_of_them():
    versions = [version(1), version(2, age=9000), version(3, age=7000)]
    refs = [ended(1), ended(2), ended(2, ago=3000, meeting="x"), ended(3), ended(3, ago=10, meeting="y")]
    assert plan(versions, refs, 300, limit=300, low_water=1.0) == [1, 2, 3]


TEN_YEARS = 10 * 365 * 86400.0


@pytest.mark.parametrize("ahead", [CLOCK_STEP_SECONDS + 1, TEN_YEARS])
def test_a_time_stamp_in_the_future_counts_as_old(ahead):
    versions = [version(1, age=-ahead), version(2), version(3, age=9000)]
    assert plan(versions, [ended(1, ago=-ahead), ended(2), ended(3)], 750, low_water=1.0) == [1]
    assert plan(versions, [], 850, low_water=1.0) == [1, 3]


def test_a_clock_that_was_set_back_by_seconds_makes_nothing_old():
    step = CLOCK_STEP_SECONDS
    versions = [version(1, age=-step), version(2), version(3, age=-step)]
    assert plan(versions, [ended(1, ago=-step), ended(2)], 1000, low_water=1.0) == [2, 1, 3]


def test_bytes_that_can_never_fit_evict_nothing():
    with pytest.raises(NeverFits):
        plan([version(1)], [], 1001)
    with pytest.raises(NeverFits) as caught:
        plan([version(1)], [], 201, limit=0, free=150, total=250, keep_free=50)
    assert (caught.value.needed, caught.value.available) == (201, 200)
    assert plan([version(1)], [], 200, limit=0, free=150, total=250, keep_free=50) == [1]


def test_bytes_that_would_fit_on_the_disk_without_those_of_other_programs_do_not_fit_now():
    with pytest.raises(NoSpace) as caught:
        plan([version(1)], [], 201, limit=0, free=100, total=1000)
    assert (type(caught.value), caught.value.available) == (NoSpace, 200)


def test_free_disk_space_counts_without_a_limit():
    assert plan([version(1), version(2, age=9000)], [], 100, limit=0, free=60) == [2]
    assert plan([version(1), version(2, age=9000)], [], 161, limit=0, free=60) == [2, 1]


def test_a_lowered_limit_is_reached_with_nothing_needed():
    versions = [version(n, age=5000 + n) for n in range(10)]
    assert plan(versions, [], 0, limit=500) == [9, 8, 7, 6, 5, 4]
    assert plan(versions, [], 0, limit=1000) == []


def test_bytes_being_filled_count():
    assert plan([version(1)], [], 100, filling=850) == [1]


facts = st.tuples(
    st.integers(1, 300),
    st.floats(0, 3 * RETIRED_SECONDS),
    st.sampled_from(["none", "sent", "plain", "progress", "pinned", "ended", "lately", "just now", "ended and plain"]),
)
NEVER = 9


def build(found) -> tuple[list[Version], list[Ref], list[int]]:
    """Return versions and refs, and the turn of each version: 0 is evicted first, `NEVER` never."""
    versions = [version(n, size, age, in_use=kind == "sent") for n, (size, age, kind) in enumerate(found)]
    refs: list[Ref] = []
    turns: list[int] = []
    for number, (_, age, kind) in enumerate(found):
        if kind == "none":
            turns.append(3 if age < JUST_LEFT_SECONDS else 1 if age < RETIRED_SECONDS else 0)
            continue
        turns.append({"sent": NEVER, "progress": NEVER, "pinned": NEVER, "ended": 0, "lately": 1}.get(kind, 2))
        if kind == "just now":
            turns[-1] = 3
        ago = {"ended": 2 * GRACE_SECONDS, "lately": GRACE_SECONDS / 2, "just now": 1, "ended and plain": 9e4}.get(kind)
        if ago is not None:
            refs.append(ended(number, ago))
        if ago is None or kind == "ended and plain":
            refs.append(ref(number, f"x{number}", pinned=kind == "pinned", in_progress=kind == "progress"))
    return versions, refs, turns


@given(
    st.lists(facts, max_size=7),
    st.integers(0, 800),
    st.sampled_from([0, 300, 600, 1000]),
    st.integers(0, 1500),
    st.integers(0, 2500),
    st.integers(0, 100),
    st.floats(0, 1),
)
def test_plans_against_a_naive_model(found, needed, limit, free, others, keep_free, part):
    draining = int(free * part)  # counts as free
    versions, refs, turns = build(found)
    stored = sum(v.size for v in versions)

    def fits(gone: list[int], mark: float) -> bool:
        freed = sum(versions[n].size for n in gone)
        disk = free - keep_free + freed >= needed
        return disk and (not limit or stored - freed + needed <= int(mark))

    order = sorted(
        (n for n in range(len(found)) if turns[n] != NEVER),
        key=lambda n: (turns[n], versions[n].last_used, versions[n].digest),
    )
    prefixes = [order[:count] for count in range(len(order) + 1)]
    enough = next((p for p in prefixes if fits(p, limit)), None)
    total = stored + free + others
    most = min(limit or total, max(0, total - keep_free))  # a disk may be smaller than what is to be left free
    usage = Usage(stored, 0, free - draining, total, limit, draining)
    try:
        got = [int(d, 16) for d in plan_eviction(versions, refs, usage, needed, NOW, keep_free=keep_free)]
    except NeverFits:
        assert needed > most
        return
    except NoSpace:
        assert enough is None
        assert needed <= most
        return
    assert all(turns[n] != NEVER for n in got)
    assert enough is not None
    if fits([], limit):
        assert got == []
    elif needed <= limit * LOW_WATER:
        old = [p for p in prefixes if all(turns[n] == 0 for n in p)]
        ahead = next((p for p in old if fits(p, limit * LOW_WATER)), old[-1])
        assert got == max(enough, ahead, key=len)
    else:
        assert got == enough
