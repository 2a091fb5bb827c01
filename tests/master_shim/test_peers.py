"""Which nodes a node can fetch a version from, against the plain definition of the order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from master_shim import peers
from master_shim.protocol import Heartbeat, Load, Registration, chain
from master_shim.registry import Registry

D1 = "1" * 64
D2 = "2" * 64


def beat(registry: Registry, name: str, now: float = 0.0, **fields: object) -> None:
    registry.heartbeat(Heartbeat(name, f"{name}:8001", **{"protocol": 1, **fields}), now)  # type: ignore[arg-type]


def told(registry: Registry, digest: str, asker: str, now: float = 0.0) -> list[str]:
    return [node.node_id for node in registry.peers(digest, asker, now)]


def test_of_many_nodes_a_node_is_told_a_few_holders_and_its_nearest_predecessors() -> None:
    registry = Registry()
    holders = [f"h{number}" for number in range(40)]
    others = [f"n{number}" for number in range(100)]
    for name in holders:
        beat(registry, name, packages={"m": D1})
    for name in others:
        beat(registry, name)
    first: set[str] = set()
    for asker in (*others, *holders, "unknown"):
        found = told(registry, D1, asker)
        assert found[: peers.MAX_HOLDERS] == chain.spread(D1, asker, holders)[: peers.MAX_HOLDERS]
        assert found[peers.MAX_HOLDERS :] == chain.predecessors(D1, asker, others)[: peers.MAX_PREDECESSORS]
        first.add(found[0])
    assert len(first) > len(holders) / 2, "the askers share the holders"
    assert len(told(registry, D2, others[0])) <= peers.MAX_PREDECESSORS
    assert len(registry.peers(D1, "", 0.0)) == len(holders) + len(others)


STEPS = st.tuples(
    st.sampled_from("abcdef"),
    st.sampled_from(["nothing", "fills", "holds", "drains", "legacy", "no address", "registers", "leaves"]),
    st.sampled_from([0.0, 5.0, 12.0, 30.0]),
    st.sampled_from([D1, D2]),
    st.sampled_from("abcdefg"),
)


@given(st.lists(STEPS, max_size=40))
def test_what_a_node_is_told_is_true_at_every_moment(steps: list[tuple[str, str, float, str, str]]) -> None:
    registry, now = Registry(), 0.0
    for name, action, passed, digest, asker in steps:
        now += passed
        if action == "registers":
            registry.register(Registration(name, f"{name}:8001"), now)
        elif action == "leaves":
            if name in {node.node_id for node in registry.nodes(now)}:
                registry.unregister(name, now)
        else:
            fields: dict[str, object] = {
                "fills": {"filling": (digest,)},
                "holds": {"packages": {"m": digest}},
                "drains": {"load": Load(draining=True), "packages": {"m": digest}},
                "legacy": {"protocol": 0},
                "no address": {"address": "nowhere"},
            }.get(action, {})
            registry.heartbeat(Heartbeat(**{"node_id": name, "address": "h:1", "protocol": 1, **fields}), now)  # type: ignore[arg-type]
        fit = [node for node in registry.nodes(now) if node.offered and node.protocol >= 1]
        held = [node.node_id for node in fit if digest in node.packages.values()]
        rest = {node.node_id for node in fit}.difference(held)
        assert told(registry, digest, asker, now) == [
            *chain.spread(digest, asker, held), *chain.predecessors(digest, asker, rest)
        ]  # fmt: skip
        assert {node.node_id for node in registry.peers(digest, "", now)} == rest.union(held)


def test_the_orders_that_are_kept_are_limited() -> None:
    registry = Registry()
    beat(registry, "a")
    for number in range(3 * peers.MAX_ORDERS):
        told(registry, f"{number:064x}", "b")
    assert len(registry._peers._orders) <= peers.MAX_ORDERS
