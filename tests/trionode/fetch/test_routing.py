"""The choice of a fill's source: what holds for every view of the other nodes, and for every history."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master_shim.protocol import FillProgress, VersionNode
from master_shim.protocol.chain import precedes
from trionode.errors import PeerFailure
from trionode.fetch.routing import (
    BUSY_SECONDS,
    LAG_BYTES,
    MASTER,
    MAX_LOSSES,
    RATE_SECONDS,
    TRIAL_SECONDS,
    TRIAL_SHARE_SECONDS,
    URGED_SECONDS,
    Choice,
    Route,
    Trial,
)

SIZE = 64 << 20
MB = 1 << 20

names = st.sampled_from([f"n{number}" for number in range(12)])
keys = st.sampled_from(["a", "b", "c"])
views = st.dictionaries(names, st.booleans()).map(
    lambda found: [VersionNode(name, f"{name}:1", held=held) for name, held in found.items()]
)


def order_of(key: str, count: int) -> list[str]:
    """Return the names of `count` nodes, the first in the order of `key` first."""
    found: list[str] = []
    for number in range(count):
        name = f"n{number}"
        found.insert(sum(precedes(key, other, name) for other in found), name)
    return found


def nodes(*names: str, held: bool = False) -> list[VersionNode]:
    return [VersionNode(name, f"{name}:1", held=held) for name in names]


def route_of_last(count: int, *, key: str = "a") -> tuple[Route, list[str]]:
    """Return the route of the last of `count` nodes, and the nodes before it, the nearest first."""
    *before, own = order_of(key, count)
    route = Route(key, own, SIZE)
    route.update(nodes(*before))
    return route, before[::-1]


# -- For every view


@given(keys, names, views)
def test_only_nodes_that_hold_the_version_or_are_before_this_one_are_chosen(
    key: str, own: str, view: list[VersionNode]
):
    route = Route(key, own, SIZE)
    route.update(view)
    held = {node.node_id for node in view if node.held}
    tried = set()
    while (choice := route.choose(0.0)).source != MASTER:
        assert choice.source != own
        assert choice.source in held or precedes(key, choice.source, own)
        assert choice.source not in tried
        tried.add(choice.source)
        route.failed(choice.source, PeerFailure.REFUSED, 0.0)
    expected = {n.node_id for n in view if n.node_id != own and (n.held or precedes(key, n.node_id, own))}
    assert tried == expected, "every one is tried before the master"


@given(keys, names, views)
def test_one_that_holds_the_version_is_preferred_then_the_nearest_before(key: str, own: str, view: list[VersionNode]):
    route = Route(key, own, SIZE)
    route.update(view)
    source = route.choose(0.0).source
    held = {node.node_id for node in view if node.held and node.node_id != own}
    before = [node.node_id for node in view if not node.held and precedes(key, node.node_id, own)]
    if held:
        assert source in held
    elif before:
        assert all(other == source or precedes(key, other, source) for other in before)
    else:
        assert source == MASTER


@given(keys, st.lists(views, min_size=12, max_size=12))
def test_no_circle_whatever_each_node_believes(key: str, beliefs: list[list[VersionNode]]):
    """Nodes that do not hold the version, and choose one that does not either, never wait for each other."""
    waits: dict[str, str] = {}
    for number, view in enumerate(beliefs):
        route = Route(key, f"n{number}", SIZE)
        route.update([node for node in view if not node.held])
        waits[f"n{number}"] = route.choose(0.0).source
    for name in waits:
        seen = [name]
        while (name := waits.get(name, MASTER)) != MASTER:
            assert name not in seen
            seen.append(name)


def test_the_nodes_that_ask_are_spread_over_those_that_hold_the_version():
    holders = [f"h{number}" for number in range(4)]
    chosen: Counter[str] = Counter()
    for number in range(400):
        route = Route("a", f"n{number}", SIZE)
        route.update(nodes(*holders, held=True))
        chosen[route.choose(0.0).source] += 1
    assert sorted(chosen) == holders
    assert min(chosen.values()) > 60


def test_with_one_view_the_nodes_are_a_chain_with_one_that_asks_the_master():
    order = order_of("a", 8)
    for place, own in enumerate(order):
        route = Route("a", own, SIZE)
        route.update(nodes(*(name for name in order if name != own)))
        assert route.choose(0.0) == Choice(order[place - 1] if place else MASTER)


# -- Nodes that failed


events = st.lists(
    st.tuples(
        st.sampled_from(["choose", "fail", "back", "update", "observe"]),
        names,
        st.sampled_from(PeerFailure),
        views,
        st.floats(0, 3),
    ),
    max_size=40,
)


@given(keys, names, st.sets(names, max_size=3), events)
def test_whatever_happens_there_is_a_choice_and_never_a_barred_node(
    key: str,
    own: str,
    barred: set[str],
    history: list[tuple[str, str, PeerFailure, list[VersionNode], float]],
):
    route = Route(key, own, SIZE, barred)
    never = set(barred)
    now, total = 100.0, 0
    source = MASTER
    for what, name, failure, view, seconds in history:
        now += seconds
        if what == "update":
            route.update(view)
        elif what == "back":
            route.back(name)
        elif what == "observe":
            total += MB
            route.observe(FillProgress(total + MB, SIZE, held=failure is PeerFailure.LIED), total, now)
        elif what == "fail":
            if source != MASTER:
                route.failed(name, failure, now)
                route.failed(source, failure, now)
                if failure in {PeerFailure.LIED, PeerFailure.REFUSED, PeerFailure.SLOW}:
                    never |= {name, source}
        else:
            choice = route.choose(now)
            assert choice.source == MASTER or choice.source in route.candidates
            assert choice.source not in never | {own} | set(route.lost)
            source = choice.source
    for name in [*route.candidates, own]:
        route.failed(name, PeerFailure.REFUSED, now)
    assert route.choose(now) == Choice(MASTER)


@pytest.mark.parametrize("failure", [PeerFailure.LIED, PeerFailure.REFUSED, PeerFailure.SLOW])
def test_one_that_lied_or_refused_or_is_slow_is_never_asked_again(failure: PeerFailure):
    route, (nearest, next_one) = route_of_last(3)
    assert route.choose(0.0) == Choice(nearest)
    route.failed(nearest, failure, 0.0)
    route.back(nearest)
    route.update(nodes(nearest, held=True))
    assert route.choose(1e9).source == MASTER
    route.update(nodes(nearest, next_one))
    assert route.choose(1e9) == Choice(next_one)


def test_a_barred_node_is_never_asked():
    *before, own = order_of("a", 3)
    route = Route("a", own, SIZE, barred=before)
    route.update(nodes(*before))
    assert route.choose(0.0) == Choice(MASTER)


def test_one_that_is_busy_is_asked_again_later():
    route, (nearest, next_one) = route_of_last(3)
    route.failed(nearest, PeerFailure.BUSY, 10.0)
    assert route.choose(10.0) == Choice(next_one)
    route.failed(next_one, PeerFailure.REFUSED, 10.1)
    assert route.choose(10.0 + BUSY_SECONDS) == Choice(nearest)


def test_of_busy_ones_the_nearest_is_asked_urgently_before_the_master_is():
    route, (nearest, next_one) = route_of_last(3)
    route.failed(nearest, PeerFailure.BUSY, 10.0)
    route.failed(next_one, PeerFailure.BUSY, 10.0)
    assert route.choose(10.0) == Choice(nearest, urgent=True)
    assert route.choose(10.1) == Choice(nearest, urgent=True), "it stays urgent for the ranges that follow"


def test_one_that_refuses_an_urgent_request_is_asked_again_much_later_and_the_master_meanwhile():
    route, (nearest,) = route_of_last(2)
    route.failed(nearest, PeerFailure.BUSY, 10.0)
    assert route.choose(10.0) == Choice(nearest, urgent=True)
    route.failed(nearest, PeerFailure.BUSY, 10.0)
    assert route.choose(10.0) == Choice(MASTER)
    assert route.choose(10.0 + URGED_SECONDS - BUSY_SECONDS - 0.1) == Choice(MASTER)
    assert route.choose(10.0 + URGED_SECONDS).source == nearest


def test_one_that_does_not_answer_is_asked_again_only_when_it_is_back():
    route, (nearest, next_one) = route_of_last(3)
    assert route.choose(0.0) == Choice(nearest)
    route.failed(nearest, PeerFailure.UNREACHABLE, 0.0)
    assert route.lost == [nearest]
    assert route.choose(1e9) == Choice(next_one)
    route.failed(next_one, PeerFailure.UNREACHABLE, 1e9)
    assert route.choose(1e9) == Choice(MASTER)
    route.back(next_one)
    assert (route.choose(1e9), route.lost) == (Choice(next_one), [nearest])


def test_one_whose_connections_keep_breaking_is_not_asked_again_though_it_answers():
    route, (nearest,) = route_of_last(2)
    for _ in range(MAX_LOSSES):
        assert route.choose(0.0) == Choice(nearest)
        route.failed(nearest, PeerFailure.UNREACHABLE, 0.0)
        route.back(nearest)
    assert route.choose(1e9) == Choice(MASTER)


@pytest.mark.parametrize("failure", PeerFailure)
def test_a_request_that_fails_at_the_same_time_as_another_does_not_make_its_node_a_source_again(failure: PeerFailure):
    route, (nearest,) = route_of_last(2)
    route.failed(nearest, PeerFailure.LIED, 0.0)
    route.failed(nearest, failure, 0.0)
    route.back(nearest)
    assert route.choose(1e9) == Choice(MASTER)
    route, (nearest,) = route_of_last(2)
    route.failed(nearest, PeerFailure.BUSY, 0.0)
    assert route.choose(0.0) == Choice(nearest, urgent=True)
    route.failed(nearest, PeerFailure.BUSY, 0.0)
    route.failed(nearest, PeerFailure.BUSY, 0.0)
    assert route.choose(BUSY_SECONDS) == Choice(MASTER), "it has refused an urgent request"


def test_requests_that_break_off_together_are_one_loss():
    route, (nearest,) = route_of_last(2)
    for _ in range(MAX_LOSSES - 1):
        route.failed(nearest, PeerFailure.UNREACHABLE, 0.0)
        route.failed(nearest, PeerFailure.UNREACHABLE, 0.0)
        route.back(nearest)
    assert route.choose(0.0) == Choice(nearest)


# -- It stays with a good source


def test_it_stays_with_its_source_though_a_better_one_appears():
    route, (nearest, next_one) = route_of_last(3)
    route.update(nodes(next_one))
    assert route.choose(0.0) == Choice(next_one)
    route.update([*nodes(nearest), *nodes(next_one), *nodes("holder", held=True)])
    assert route.choose(1.0) == Choice(next_one)


def test_it_leaves_the_master_as_soon_as_there_is_a_node():
    route, (nearest,) = route_of_last(2)
    route.update([])
    assert route.choose(0.0) == Choice(MASTER)
    route.update(nodes(nearest))
    assert route.choose(1.0) == Choice(nearest)


def test_it_leaves_a_source_that_is_no_longer_listed():
    route, (nearest, next_one) = route_of_last(3)
    assert route.choose(0.0) == Choice(nearest)
    route.update(nodes(next_one))
    assert route.choose(1.0) == Choice(next_one)


# -- Rates


def observed(route: Route, progress: list[int], own: list[int], *, source: str = "x", held: bool = False) -> None:
    """Observe once a second."""
    for now, (theirs, filled) in enumerate(zip(progress, own, strict=True)):
        assert not route.observe(FillProgress(theirs, SIZE, source=source, held=held), filled, float(now))


def test_a_fill_is_slow_if_its_source_is_twice_as_fast_and_far_ahead():
    route, _ = route_of_last(2)
    route.choose(0.0)
    observed(route, [10 * MB, 14 * MB, 18 * MB], [0, MB, 2 * MB])
    assert route.slow
    route.observe(FillProgress(20 * MB, SIZE), 20 * MB - LAG_BYTES, 3.0)
    assert not route.slow, "it has caught up"


def test_a_fill_is_not_slow_if_it_is_near_its_source_or_as_fast_or_its_source_has_all():
    for progress, own, held in (
        ([MB, 3 * MB, 4 * MB], [0, 0, 0], False),
        ([10 * MB, 12 * MB, 14 * MB], [0, MB + 1, 2 * MB + 2], False),
        ([SIZE, SIZE, SIZE], [0, 1, 2], True),
    ):
        route, _ = route_of_last(2)
        route.choose(0.0)
        observed(route, progress, own, held=held)
        assert not route.slow


def test_the_word_of_a_source_that_it_is_slow_is_passed_on_except_the_masters():
    route, (nearest,) = route_of_last(2)
    assert not route.observe(FillProgress(slow=True), 0, 0.0), "nothing was requested from another node yet"
    assert route.choose(0.0) == Choice(nearest)
    assert route.observe(FillProgress(slow=True), 0, 1.0)


def test_another_source_is_tried_once_if_nothing_else_tells_whether_this_one_is_slow():
    for progress in (FillProgress(SIZE, SIZE, held=True), FillProgress(2 * MB, SIZE, source=MASTER)):
        route, (nearest, _) = route_of_last(3)
        assert route.choose(0.0) == Choice(nearest)
        for now in range(4):
            route.observe(progress, now * MB // 2, float(now))
        assert route.trial(4.0) == Trial(MASTER, int(TRIAL_SHARE_SECONDS * MB / 2)), (
            "no other node has the whole version"
        )
        assert route.trial(4.0) is None, "once"
        assert route.choose(4.0) == Choice(nearest)
        assert not route.compared(MB), "not more than twice as fast"
        assert route.compared(1.1 * MB)


def test_a_node_that_has_the_whole_version_is_tried_before_the_master_is():
    for failure, tried in ((None, "b"), (PeerFailure.LIED, MASTER), (PeerFailure.UNREACHABLE, MASTER)):
        route = Route("a", "own", SIZE)
        route.update(nodes("b", "c", held=True))
        used = route.choose(0.0).source
        other = ({"b", "c"} - {used}).pop()
        if failure is not None:
            route.failed(other, failure, 0.0)
        for now in range(4):
            route.observe(FillProgress(SIZE, SIZE, held=True), now * MB, float(now))
        assert route.trial(4.0) == Trial(other if tried else MASTER, int(TRIAL_SHARE_SECONDS * MB))


def test_nothing_is_tried_while_the_source_compares_itself_or_the_rest_is_short_or_the_size_or_rate_is_unknown():
    rest = int(TRIAL_SECONDS * MB) - 1
    for progress, size, filled, seconds in (
        (FillProgress(2 * MB, SIZE, source="x"), SIZE, [0, MB, 2 * MB], 1.0),
        (FillProgress(SIZE, SIZE, held=True), 2 * MB + rest, [0, MB, 2 * MB], 1.0),
        (FillProgress(SIZE, SIZE, held=True), None, [0, MB, 2 * MB], 1.0),
        (FillProgress(SIZE, SIZE, held=True), SIZE, [0, MB, 2 * MB], RATE_SECONDS / 4),
        (None, SIZE, [0, 0, 0], 1.0),
    ):
        *before, own = order_of("a", 3)
        route = Route("a", own, size)
        route.update(nodes(*before))
        expected = Choice(before[-1])
        assert route.choose(0.0) == expected
        for step, count in enumerate(filled):
            if progress is not None:
                route.observe(progress, count, step * seconds)
        assert route.trial(3.0) is None


def test_rates_are_those_of_the_source_in_use():
    route, (nearest, next_one) = route_of_last(3)
    route.choose(0.0)
    observed(route, [10 * MB, 14 * MB, 18 * MB], [0, MB, 2 * MB])
    route.failed(nearest, PeerFailure.REFUSED, 3.0)
    assert route.choose(3.0) == Choice(next_one)
    assert not route.compared(inf), "there is no rate of the new source yet"


def test_a_node_that_has_lost_its_source_is_not_slow_for_the_time_it_waited():
    route, (nearest, _) = route_of_last(3)
    route.choose(0.0)
    observed(route, [MB] * 4, [MB] * 4)  # nothing arrives
    for now in (4, 5):
        assert not route.observe(FillProgress(now * MB, SIZE, source=MASTER), now * MB, float(now))
        assert route.trial(float(now)) is None, "there is no rate of its new source yet"
    route.observe(FillProgress(6 * MB, SIZE, source=MASTER), 6 * MB, 6.0)
    trial = route.trial(6.0)
    assert trial is not None
    assert trial.source == MASTER
    assert not route.compared(2 * MB), "that it waited for its old source is forgotten"
    assert route.choose(6.0) == Choice(nearest)
