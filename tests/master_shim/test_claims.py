"""Several nodes with one id or address, with times as plain numbers."""

from __future__ import annotations

import pytest

from master_shim.claims import CONFLICT_SECONDS, MAX_NAMES, MAX_USERS, Claims, Kind
from master_shim.protocol import Heartbeat, Registration
from master_shim.registry import Registry

HERE, THERE = "10.0.0.1:8001", "10.0.0.2:8001"


class Nodes:
    """A registry, and what the last message of a node was answered."""

    def __init__(self) -> None:
        self.registry = Registry()

    def beat(self, node_id: str, instance: str, address: str, now: float) -> str:
        return self.registry.heartbeat(Heartbeat(node_id, address, protocol=1, instance=instance), now).conflict

    def register(self, node_id: str, instance: str, address: str, now: float) -> str:
        return self.registry.register(Registration(node_id, address, instance=instance), now).conflict


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


ID_REMEDY = "remove node.json from the storage folder of one of them, or set another --node-id for it"


@pytest.mark.parametrize("instances", [("x", "y"), ("", "")], ids=["ours", "deployed"])
def test_two_nodes_with_one_id_conflict_from_the_second_heartbeat_of_the_first(
    nodes: Nodes, instances: tuple[str, str]
) -> None:
    x, y = instances
    assert nodes.beat("n", x, HERE, 0.0) == ""
    assert nodes.beat("n", y, THERE, 2.0) == ""  # it may have moved
    said = f"several nodes have the id n (at {HERE}, at {THERE}); {ID_REMEDY}"
    for now in (5.0, 10.0, 15.0):
        assert nodes.beat("n", x, HERE, now) == said
        assert nodes.beat("n", y, THERE, now + 2) == said
    # One of them is stopped.
    assert nodes.beat("n", x, HERE, 20.0) == said
    for now in range(25, 50, 5):
        assert nodes.beat("n", x, HERE, float(now)) == said
    assert nodes.beat("n", x, HERE, 50.0) == ""


def test_two_nodes_of_a_cloned_machine_with_the_same_settings_conflict(nodes: Nodes) -> None:
    assert nodes.register("n", "x", HERE, 0.0) == ""
    assert nodes.register("n", "y", HERE, 1.0) == ""
    assert nodes.beat("n", "x", HERE, 2.0) == f"several nodes have the id n (at {HERE}); {ID_REMEDY}"


def test_two_nodes_with_one_address_conflict(nodes: Nodes) -> None:
    assert nodes.beat("a", "x", HERE, 0.0) == ""
    assert nodes.beat("b", "y", HERE, 1.0) == ""  # the other may have ended
    said = f"several nodes have the address {HERE} (a, b); correct the --node-address of one of them"
    assert nodes.beat("a", "x", HERE, 5.0) == said
    assert nodes.beat("b", "y", HERE, 6.0) == said
    assert nodes.beat("c", "z", THERE, 6.0) == ""
    assert nodes.beat("b", "y", "10.0.0.3:8001", 7.0) == ""  # corrected
    assert nodes.beat("a", "x", HERE, 36.0) == ""


def test_three_nodes_that_take_turns_conflict(nodes: Nodes) -> None:
    found = [nodes.beat("n", name, f"{name}:1", float(now)) for now, name in enumerate("xyzxyz")]
    assert found[:3] == ["", "", ""]
    assert all("at x:1, at y:1, at z:1" in text for text in found[3:])


@pytest.mark.parametrize("deployed", [False, True])
def test_a_restart_is_no_conflict(nodes: Nodes, *, deployed: bool) -> None:
    for run in range(10):
        instance = "" if deployed else f"run {run}"
        for beat in range(3):
            act = nodes.register if beat == 0 else nodes.beat
            assert act("n", instance, HERE, run * 3.0 + beat) == ""


@pytest.mark.parametrize("deployed", [False, True])
def test_a_node_that_moves_or_gets_another_id_is_no_conflict(nodes: Nodes, *, deployed: bool) -> None:
    for step, (node_id, address) in enumerate([("n", HERE), ("n", THERE), ("m", THERE), ("n", HERE)]):
        instance = "" if deployed else f"start {step}"
        for beat in range(4):
            # It is back at its old address after more than a heartbeat's time limit.
            assert nodes.beat(node_id, instance, address, step * 20.0 + beat * 5.0) == ""


def test_a_node_that_left_is_no_conflict(nodes: Nodes) -> None:
    nodes.beat("n", "x", HERE, 0.0)
    nodes.beat("n", "y", THERE, 1.0)
    assert nodes.beat("n", "x", HERE, 2.0)
    nodes.registry.unregister("n", 3.0)
    assert nodes.beat("n", "y", THERE, 4.0) == ""
    assert nodes.beat("n", "y", THERE, 9.0) == ""


def test_what_is_remembered_is_limited() -> None:
    claims = Claims()
    for number in range(MAX_NAMES + 1):
        claims.use(Kind.ID, f"n{number}", "x", "", 0.0)
    assert len(claims._names) == MAX_NAMES
    for number in range(MAX_USERS + 5):
        claims.use(Kind.ID, "n", f"user {number}", "", 1.0)
    assert len(claims._names[Kind.ID, "n"].users) == MAX_USERS
    claims.use(Kind.ID, "last", "x", "", 1.0 + CONFLICT_SECONDS)
    assert len(claims._names) == 1
