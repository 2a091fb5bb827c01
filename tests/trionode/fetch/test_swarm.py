"""Many nodes with different views of each other, in virtual time: every node that stays ends whole."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from store import split_file
from tests.support.packages import make_documents, make_package
from tests.support.swarm import Swarm
from tests.support.swarm_node import Fault, Member

if TYPE_CHECKING:
    from store import Manifest

DEADLINE_SECONDS = 300.0
"""No node may take longer: one alone at the slowest line takes a fifth of it."""

SLOW = 100e3

COMPARED_BYTES = 1 << 20
"""A node may fetch so much from the master to compare its rate with another node's."""

SETTINGS = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@cache
def package() -> tuple[bytes, Manifest]:
    """Return a package of 6 MB, and its manifest."""
    with TemporaryDirectory() as folder:
        path = make_package(Path(folder) / "p.zip", make_documents(12, 500_000), level=0).path
        return path.read_bytes(), split_file(path)


def swarm_of(*members: Member, **options: Any) -> Swarm:
    return Swarm(*package(), members, **options)


moments = st.sampled_from([0.0, 0.2, 0.5, 1.0, 1.7, 2.5, 4.0, 8.0])


@st.composite
def members(draw: st.DrawFn, *, views: bool) -> list[Member]:
    count = draw(st.integers(2, 6))
    seen = st.frozensets(st.integers(0, count - 1))
    one = st.builds(
        Member,
        starts=moments,
        rate=st.sampled_from([6e6, 1e6, SLOW]),
        fault=st.sampled_from(Fault),
        since=moments,
        views=st.lists(seen, max_size=4).map(tuple) if views else st.just(()),
        claimed=st.booleans() if views else st.just(False),
    )
    return draw(st.lists(one, min_size=count, max_size=count))


@settings(SETTINGS, max_examples=25)
@given(
    members=members(views=True),
    rate=st.sampled_from([3e6, 500e3]),
    away=st.sampled_from([(0.0, 0.0), (0.5, 9.0), (2.0, 40.0)]),
)
# Every range has been requested, and none has arrived, when another source may be tried.
@example(members=[Member(), Member(rate=1e6)], rate=3e6, away=(1.5, 40.0))
def test_every_node_ends_whole_whatever_each_believes(members: list[Member], rate: float, away: tuple[float, float]):
    swarm_of(*members, rate=rate, away=away).run(DEADLINE_SECONDS)


@pytest.mark.parametrize("count", range(2, 7))
def test_the_master_sends_each_byte_once_if_nothing_fails(count: int):
    swarm = swarm_of(*[Member()] * count)
    swarm.run(DEADLINE_SECONDS)
    assert swarm.sent <= len(swarm.content)


@settings(SETTINGS, max_examples=12)
@given(count=st.integers(3, 6), bad=members(views=False), faulty=st.integers(1, 2), order=st.permutations(range(6)))
def test_with_one_view_the_master_sends_at_most_a_copy_more_for_each_faulty_node(
    count: int, bad: list[Member], faulty: int, order: list[int]
):
    faulty = min(faulty, count - 2)  # so the limit is less than a copy for each node
    found = [replace(member, starts=0.0) for member in bad[:faulty]] + [Member()] * (count - faulty)
    swarm = swarm_of(*(found[at] for at in order if at < count))
    swarm.run(DEADLINE_SECONDS)
    assert swarm.sent <= (1 + faulty) * len(swarm.content) + count * COMPARED_BYTES
