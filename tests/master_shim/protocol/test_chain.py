"""The order in which nodes fetch a version from each other."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from master_shim.protocol.chain import legacy_key, precedes, predecessors, spread

names = st.lists(st.text(max_size=8), min_size=1, max_size=8, unique=True)
keys = st.text(max_size=8)


@given(keys, names)
def test_all_nodes_compute_one_order(key, nodes):
    order = sorted(nodes, key=lambda node: len(predecessors(key, node, nodes)))
    assert [len(predecessors(key, node, nodes)) for node in order] == list(range(len(nodes)))
    for at, node in enumerate(order):
        assert predecessors(key, node, nodes) == order[:at][::-1]  # the nearest first
        assert all(precedes(key, other, node) is (other in order[:at]) for other in nodes)


@given(keys, names, st.data())
def test_the_predecessors_do_not_depend_on_which_other_nodes_are_known(key, nodes, data):
    known = data.draw(st.lists(st.sampled_from(nodes)))
    everything = predecessors(key, nodes[0], nodes)
    assert predecessors(key, nodes[0], set(known)) == [node for node in everything if node in known]


def test_each_version_has_another_order():
    nodes = [f"node-{n}" for n in range(3)]
    firsts = Counter(next(n for n in nodes if not predecessors(f"version {v}", n, nodes)) for v in range(300))
    assert set(firsts) == set(nodes)
    assert max(firsts.values()) < 140
    orders = {tuple(sorted(nodes, key=lambda n: len(predecessors(str(v), n, nodes)))) for v in range(100)}
    assert orders == set(permutations(nodes))


def test_the_askers_of_a_version_spread_over_its_holders():
    holders = [f"holder-{n}" for n in range(4)]
    firsts = Counter(spread("version", f"asker-{n}", holders)[0] for n in range(400))
    assert set(firsts) == set(holders)
    assert max(firsts.values()) < 160
    assert "holder-1" not in spread("version", "holder-1", holders)
    assert sorted(spread("version", "x", holders)) == holders


def test_an_id_cannot_imitate_another_meeting_with_another_token():
    # A meeting id has no control characters, so the separator is unambiguous.
    assert legacy_key("m", "t") != legacy_key("mt", "")
