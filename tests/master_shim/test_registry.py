"""Which nodes are alive and what they hold, with times as plain numbers."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master_shim import registry as module
from master_shim.errors import FieldEmpty, MessageInvalid, NodeMissing, RegistryFull
from master_shim.node import RegisteredNode, State
from master_shim.protocol import MAX_TITLE_CHARS, Heartbeat, Load, MeetingName, Registration
from master_shim.registry import Registry

D1 = "1" * 64
D2 = "2" * 64


def ours(node_id: str = "a", address: str = "10.0.0.1:8001", **fields: object) -> Heartbeat:
    return Heartbeat(node_id, address, protocol=1, **fields)  # type: ignore[arg-type]


def legacy(active: tuple[str, ...], synced: tuple[str, ...], node_id: str = "old") -> Heartbeat:
    names = tuple(MeetingName(name, f"title of {name}") for name in active)
    return Heartbeat(node_id, "10.0.0.9:8001", active_meetings=names, synced_meetings=synced)


def test_a_node_of_ours_that_misses_two_heartbeats_is_not_offered_until_the_next() -> None:
    registry = Registry()
    registry.heartbeat(legacy(("m",), ("m",)), 0.0)
    registry.heartbeat(ours("a", packages={"m": D1}), 0.0)
    registry.heartbeat(ours("b", packages={"m": D1}), 3.0)
    assert {node.node_id for node in registry.holders("m", D1, 11.9)} == {"old", "a", "b"}
    # A deployed node sends a heartbeat every 10 s, and times out after 30 s.
    assert {node.node_id for node in registry.holders("m", D1, 12.0)} == {"old", "b"}
    assert {node.node_id for node in registry.holders("m", D1, 15.0)} == {"old"}
    assert len(registry.nodes(15.0)) == 3
    registry.heartbeat(ours("a", packages={"m": D1}), 16.0)
    assert {node.node_id for node in registry.holders("m", D1, 16.0)} == {"old", "a"}


def test_a_node_is_removed_after_thirty_seconds_without_a_message() -> None:
    registry = Registry()
    registry.register(Registration("a", "10.0.0.1:8001"), 100.0)
    assert [node.node_id for node in registry.nodes(129.99)] == ["a"]
    registry.heartbeat(ours(), 129.99)
    assert len(registry.nodes(159.98)) == 1
    assert registry.nodes(160.0) == ()
    with pytest.raises(NodeMissing):
        registry.unregister("a", 160.0)


def test_an_unknown_node_is_registered_by_its_heartbeat() -> None:
    registry = Registry()
    node = registry.heartbeat(ours(packages={"m": D1}), 5.0)
    assert (node.state, node.first_seen, node.online_since) == (State.ONLINE, 5.0, 5.0)
    assert list(registry.holders("m", D1, 6.0)) == [node]


def test_a_registered_node_is_offered_after_its_first_heartbeat() -> None:
    registry = Registry()
    registry.register(Registration("a", "10.0.0.1:8001"), 0.0)
    assert list(registry.holders("m", D1, 1.0)) == []
    registry.heartbeat(ours(packages={"m": D1}), 2.0)
    assert len(registry.holders("m", D1, 2.0)) == 1
    # A node registers again when it restarts.
    registry.register(Registration("a", "10.0.0.1:8001"), 3.0)
    assert list(registry.holders("m", D1, 3.0)) == []


def test_a_synced_meeting_counts_only_if_the_same_heartbeat_lists_it_as_active() -> None:
    registry = Registry()
    registry.heartbeat(legacy(active=("m",), synced=("m", "other")), 0.0)
    assert len(registry.holders("m", D1, 0.0)) == 1
    assert list(registry.holders("other", D1, 0.0)) == []
    registry.heartbeat(legacy(active=("m",), synced=()), 1.0)
    assert list(registry.holders("m", D1, 1.0)) == []


def test_a_node_of_ours_holds_a_version_rather_than_a_meeting() -> None:
    registry = Registry()
    names = (MeetingName("m"),)
    registry.heartbeat(ours(packages={"m": D1}, active_meetings=names, synced_meetings=("m",), filling=(D2,)), 0.0)
    assert len(registry.holders("m", D1, 0.0)) == 1
    assert list(registry.holders("m", D2, 0.0)) == []


@pytest.mark.parametrize(
    "address", ["no-colon", ":80", "host:", "host:0", "host:65536", "a b:80", "http://h:80", "h:8 "]
)
def test_a_node_with_an_invalid_address_is_kept_but_not_offered(address: str) -> None:
    registry = Registry()
    registry.heartbeat(ours(address=address, packages={"m": D1}), 0.0)
    assert len(registry.nodes(0.0)) == 1
    assert list(registry.holders("m", D1, 0.0)) == []


@pytest.mark.parametrize("address", ["10.0.0.1:8001", "localhost:1", "node-3.lan:65535", "[fe80::1]:8001"])
def test_a_node_with_a_valid_address_is_offered(address: str) -> None:
    registry = Registry()
    registry.heartbeat(ours(address=address, packages={"m": D1}), 0.0)
    assert len(registry.holders("m", D1, 0.0)) == 1


def test_a_draining_node_is_kept_but_not_offered() -> None:
    registry = Registry()
    node = registry.heartbeat(ours(packages={"m": D1}, load=Load(draining=True)), 0.0)
    assert node.state is State.DRAINING
    assert list(registry.holders("m", D1, 0.0)) == []
    assert registry.heartbeat(ours(packages={"m": D1}, load=Load()), 9.0).online_since == 9.0
    assert len(registry.holders("m", D1, 9.0)) == 1


@pytest.mark.parametrize(("node_id", "address"), [("", "h:1"), ("  ", "h:1"), ("a", ""), ("a", " ")])
def test_an_empty_id_or_address_is_refused_and_changes_nothing(node_id: str, address: str) -> None:
    registry = Registry()
    with pytest.raises(FieldEmpty):
        registry.heartbeat(ours(node_id, address), 0.0)
    with pytest.raises(FieldEmpty):
        registry.register(Registration(node_id, address), 0.0)
    assert len(registry) == 0


def test_the_report_of_a_node_is_limited() -> None:
    registry = Registry()
    many = tuple(f"m{n}" for n in range(module.MAX_HEARTBEAT_ITEMS + 1))
    for message in (
        ours("x" * 513),
        ours(address="x" * 513),
        ours(active_meetings=tuple(map(MeetingName, many))),
        ours(packages=dict.fromkeys(many, D1)),
        ours(packages={"x" * 513: D1}),
        ours(filling=many),
        ours(sources=dict.fromkeys(many, "")),
        ours(synced_meetings=many),
    ):
        with pytest.raises(MessageInvalid):
            registry.heartbeat(message, 0.0)
    assert len(registry) == 0
    node = registry.heartbeat(
        ours(
            active_meetings=(MeetingName("m", "t" * 10_000),),
            packages={"m": "no digest"},
            load=Load(active_downloads=10**30, max_downloads=-5),
        ),
        0.0,
    )
    assert len(node.active[0].title) == MAX_TITLE_CHARS
    assert node.packages == {}
    assert node.load.active_downloads == module.MAX_LOAD
    assert node.load.max_downloads == 0


def test_a_source_counts_only_for_what_is_filling_and_if_it_is_the_id_of_a_node() -> None:
    registry = Registry()
    node = registry.heartbeat(
        ours(filling=(D1, D2, "short"), sources={D1: "", D2: "b", "3" * 64: "c", "short": ""}), 0.0
    )
    assert node.sources == {D1: "", D2: "b"}
    # It is only displayed, so that the rest of the heartbeat counts.
    for hostile in ("x" * 513, "a\nb", "\u202ea", "\x1b[31m", "\ud800"):
        node = registry.heartbeat(ours(filling=(D1, D2), sources={D1: hostile, D2: "董事会 1"}), 0.0)
        assert (node.sources, node.filling) == ({D2: "董事会 1"}, {D1, D2})
    registry.register(Registration("a", "10.0.0.1:8001"), 0.0)
    assert node.sources == {}


def test_the_text_of_sources_is_limited_as_that_of_meetings(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    digests = [f"{number:064}" for number in range(100)]
    sources = dict.fromkeys(digests, "s" * module.MAX_ID_CHARS)
    kept = [
        registry.heartbeat(ours(filling=tuple(digests), **fields), 0.0).kept_chars
        for fields in ({}, {"sources": dict.fromkeys(digests, "")}, {"sources": sources})
    ]
    assert kept[1] - kept[0] == 100 * module.ITEM_CHARS
    assert kept[2] - kept[1] == 100 * module.MAX_ID_CHARS
    monkeypatch.setattr(module, "MAX_KEPT_CHARS", kept[2] - 1)
    with pytest.raises(RegistryFull):
        Registry().heartbeat(ours(filling=tuple(digests), sources=sources), 0.0)


def test_texts_of_a_node_are_reduced_to_one_line() -> None:
    registry = Registry()
    titles = ("two\r\nlines", "\x1b[31mred\x07", "\u202eturned", "董事会\u3000一", "\ud800half")
    named = tuple(MeetingName(f"m{n}", title) for n, title in enumerate(titles))
    node = registry.heartbeat(ours(active_meetings=(*named, MeetingName("a\nb", "t")), status="on\nline"), 0.0)
    assert [meeting.title for meeting in node.active] == [
        "two lines", "[31mred", "turned", "董事会\u3000一", "half"
    ]  # fmt: skip
    assert node.status == "on line"
    for message in (ours("a\nb"), ours(address="h:1\x1b[0m"), ours("\u202ea")):
        with pytest.raises(MessageInvalid):
            registry.heartbeat(message, 0.0)
    assert len(registry) == 1


@pytest.mark.parametrize("address", ["[:::::::]:80", "[1:2]:80", "[1.2.3.4]:80", "[]:80"])
def test_a_node_with_an_invalid_ipv6_address_is_not_offered(address: str) -> None:
    assert not Registry().heartbeat(ours(address=address), 0.0).offered


def test_the_number_of_nodes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NODES", 3)
    registry = Registry()
    for number in range(3):
        registry.heartbeat(ours(f"n{number}"), float(number))
    with pytest.raises(RegistryFull):
        registry.heartbeat(ours("n3"), 3.0)
    with pytest.raises(RegistryFull):
        registry.register(Registration("n3", "h:1"), 3.0)
    registry.heartbeat(ours("n0"), 4.0)  # a known node is not refused
    registry.heartbeat(ours("n3"), 31.0)  # and a node that timed out makes room


def test_the_text_of_all_nodes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_CHARS", 600)
    registry = Registry()
    registry.heartbeat(ours("a", packages={"m": D1}), 0.0)
    with pytest.raises(RegistryFull):
        registry.heartbeat(ours("b", active_meetings=(MeetingName("m", "t" * 450),)), 0.0)
    with pytest.raises(RegistryFull):
        registry.heartbeat(ours("a", active_meetings=(MeetingName("m", "t" * 501),)), 0.0)
    assert [node.node_id for node in registry.nodes(0.0)] == ["a"]
    registry.unregister("a", 1.0)
    registry.heartbeat(ours("b", active_meetings=(MeetingName("m", "t" * 450),)), 1.0)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0.0, 20.0), st.sampled_from("rbu")), max_size=60))
def test_liveness_agrees_with_a_naive_model(steps: list[tuple[str, float, str]]) -> None:
    registry = Registry()
    model: OrderedDict[str, float] = OrderedDict()
    now = 0.0
    for name, passed, action in steps:
        now += passed
        model = OrderedDict((key, seen) for key, seen in model.items() if now - seen < 30.0)
        if action == "u":
            if name in model:
                registry.unregister(name, now)
                del model[name]
            else:
                with pytest.raises(NodeMissing):
                    registry.unregister(name, now)
        else:
            if action == "r":
                registry.register(Registration(name, "h:1"), now)
            else:
                registry.heartbeat(ours(name), now)
            model[name] = now
            model.move_to_end(name)
        assert [node.node_id for node in registry.nodes(now)] == list(model)


def test_expiry_examines_only_the_nodes_it_removes() -> None:
    registry = Registry()
    for number in range(1000):
        registry.heartbeat(ours(f"n{number}"), number / 100)
    examined = 0

    class Counting(OrderedDict[str, RegisteredNode]):
        def values(self) -> object:  # type: ignore[override]
            nonlocal examined
            examined += 1
            return super().values()

    registry._nodes = Counting(registry._nodes)
    rng = random.Random(1)
    now = 10.0
    while registry._nodes:
        now += rng.random()
        registry.expire(now)
    # One for each node removed, and one more for each call.
    assert examined <= 1000 + 120
