"""Which nodes are alive and what they hold: times are plain numbers here."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master_shim import registry as module
from master_shim.errors import FieldEmpty, MessageInvalid, NodeMissing, RegistryFull
from master_shim.protocol import MAX_TITLE_CHARS, Heartbeat, Load, MeetingName, Registration
from master_shim.registry import TRANSITIONS, Event, Registry, State

D1 = "1" * 64
D2 = "2" * 64


def ours(node_id: str = "a", address: str = "10.0.0.1:8001", **fields: object) -> Heartbeat:
    return Heartbeat(node_id, address, protocol=1, **fields)  # type: ignore[arg-type]


def legacy(active: tuple[str, ...], synced: tuple[str, ...], node_id: str = "old") -> Heartbeat:
    names = tuple(MeetingName(name, f"title of {name}") for name in active)
    return Heartbeat(node_id, "10.0.0.9:8001", active_meetings=names, synced_meetings=synced)


def test_every_state_knows_every_event_but_leaving_while_absent() -> None:
    assert set(TRANSITIONS) == set(State)
    for state, row in TRANSITIONS.items():
        refused = {Event.UNREGISTER, Event.SILENCE} if state is State.ABSENT else set()
        # Only what is offered can be late.
        late = set() if state is State.ONLINE else {Event.LATE}
        assert set(row) == set(Event) - refused - late


def test_one_of_ours_that_misses_two_beats_is_offered_to_nobody_until_it_is_heard_again() -> None:
    registry = Registry()
    registry.beat(legacy(("m",), ("m",)), 0.0)
    registry.beat(ours("a", packages={"m": D1}), 0.0)
    registry.beat(ours("b", packages={"m": D1}), 3.0)
    assert {node.node_id for node in registry.holders("m", D1, 11.9)} == {"old", "a", "b"}
    # A deployed node beats every 10 s, and is given its 30.
    assert {node.node_id for node in registry.holders("m", D1, 12.0)} == {"old", "b"}
    assert {node.node_id for node in registry.holders("m", D1, 15.0)} == {"old"}
    assert len(registry.nodes(15.0)) == 3
    registry.beat(ours("a", packages={"m": D1}), 16.0)
    assert {node.node_id for node in registry.holders("m", D1, 16.0)} == {"old", "a"}


def test_a_silent_node_is_dropped_after_thirty_seconds_and_not_before() -> None:
    registry = Registry()
    registry.register(Registration("a", "10.0.0.1:8001"), 100.0)
    assert [node.node_id for node in registry.nodes(129.99)] == ["a"]
    registry.beat(ours(), 129.99)
    assert len(registry.nodes(159.98)) == 1
    assert registry.nodes(160.0) == ()
    with pytest.raises(NodeMissing):
        registry.unregister("a", 160.0)


def test_an_unknown_node_is_registered_by_its_heartbeat() -> None:
    registry = Registry()
    node = registry.beat(ours(packages={"m": D1}), 5.0)
    assert (node.state, node.first_seen, node.online_since) == (State.ONLINE, 5.0, 5.0)
    assert list(registry.holders("m", D1, 6.0)) == [node]


def test_a_registered_node_is_offered_only_after_it_said_what_it_holds() -> None:
    registry = Registry()
    registry.register(Registration("a", "10.0.0.1:8001"), 0.0)
    assert list(registry.holders("m", D1, 1.0)) == []
    registry.beat(ours(packages={"m": D1}), 2.0)
    assert len(registry.holders("m", D1, 2.0)) == 1
    # Registering again means that it started again.
    registry.register(Registration("a", "10.0.0.1:8001"), 3.0)
    assert list(registry.holders("m", D1, 3.0)) == []


def test_a_synced_meeting_counts_only_with_the_same_beat_naming_it_active() -> None:
    registry = Registry()
    registry.beat(legacy(active=("m",), synced=("m", "other")), 0.0)
    assert len(registry.holders("m", D1, 0.0)) == 1
    assert list(registry.holders("other", D1, 0.0)) == []
    registry.beat(legacy(active=("m",), synced=()), 1.0)
    assert list(registry.holders("m", D1, 1.0)) == []


def test_one_of_ours_holds_a_version_and_not_a_name() -> None:
    registry = Registry()
    names = (MeetingName("m"),)
    registry.beat(ours(packages={"m": D1}, active_meetings=names, synced_meetings=("m",), filling=(D2,)), 0.0)
    assert len(registry.holders("m", D1, 0.0)) == 1
    assert list(registry.holders("m", D2, 0.0)) == []
    assert [(node.node_id, filling) for node, filling in registry.sources(D1, 0.0)] == [("a", False)]
    assert [(node.node_id, filling) for node, filling in registry.sources(D2, 0.0)] == [("a", True)]


@pytest.mark.parametrize(
    "address", ["no-colon", ":80", "host:", "host:0", "host:65536", "a b:80", "http://h:80", "h:8 "]
)
def test_an_address_that_is_none_is_kept_but_never_offered(address: str) -> None:
    registry = Registry()
    registry.beat(ours(address=address, packages={"m": D1}), 0.0)
    assert len(registry.nodes(0.0)) == 1
    assert list(registry.holders("m", D1, 0.0)) == []


@pytest.mark.parametrize("address", ["10.0.0.1:8001", "localhost:1", "node-3.lan:65535", "[fe80::1]:8001"])
def test_an_address_that_is_one_is_offered(address: str) -> None:
    registry = Registry()
    registry.beat(ours(address=address, packages={"m": D1}), 0.0)
    assert len(registry.holders("m", D1, 0.0)) == 1


def test_a_draining_node_is_known_and_not_offered() -> None:
    registry = Registry()
    node = registry.beat(ours(packages={"m": D1}, load=Load(draining=True)), 0.0)
    assert node.state is State.DRAINING
    assert list(registry.holders("m", D1, 0.0)) == []
    assert registry.beat(ours(packages={"m": D1}, load=Load()), 9.0).online_since == 9.0
    assert len(registry.holders("m", D1, 9.0)) == 1


@pytest.mark.parametrize(("node_id", "address"), [("", "h:1"), ("  ", "h:1"), ("a", ""), ("a", " ")])
def test_an_empty_name_is_refused_and_changes_nothing(node_id: str, address: str) -> None:
    registry = Registry()
    with pytest.raises(FieldEmpty):
        registry.beat(ours(node_id, address), 0.0)
    with pytest.raises(FieldEmpty):
        registry.register(Registration(node_id, address), 0.0)
    assert len(registry) == 0


def test_what_a_node_says_is_bounded() -> None:
    registry = Registry()
    many = tuple(f"m{n}" for n in range(module.MAX_BEAT_MEETINGS + 1))
    for message in (
        ours("x" * 513),
        ours(address="x" * 513),
        ours(active_meetings=tuple(map(MeetingName, many))),
        ours(packages=dict.fromkeys(many, D1)),
        ours(packages={"x" * 513: D1}),
        ours(filling=many),
        ours(synced_meetings=many),
    ):
        with pytest.raises(MessageInvalid):
            registry.beat(message, 0.0)
    assert len(registry) == 0
    node = registry.beat(
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


def test_what_a_node_says_is_shown_as_one_line_each() -> None:
    registry = Registry()
    titles = ("two\r\nlines", "\x1b[31mred\x07", "\u202eturned", "董事会\u3000一", "\ud800half")
    named = tuple(MeetingName(f"m{n}", title) for n, title in enumerate(titles))
    node = registry.beat(ours(active_meetings=(*named, MeetingName("a\nb", "t")), status="on\nline"), 0.0)
    assert [meeting.title for meeting in node.active] == [
        "two lines", "[31mred", "turned", "董事会\u3000一", "half"
    ]  # fmt: skip
    assert node.status == "on line"
    for message in (ours("a\nb"), ours(address="h:1\x1b[0m"), ours("\u202ea")):
        with pytest.raises(MessageInvalid):
            registry.beat(message, 0.0)
    assert len(registry) == 1


@pytest.mark.parametrize("address", ["[:::::::]:80", "[1:2]:80", "[1.2.3.4]:80", "[]:80"])
def test_brackets_hold_an_address_or_the_node_is_not_offered(address: str) -> None:
    assert not Registry().beat(ours(address=address), 0.0).offered


def test_no_more_nodes_than_the_registry_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NODES", 3)
    registry = Registry()
    for number in range(3):
        registry.beat(ours(f"n{number}"), float(number))
    with pytest.raises(RegistryFull):
        registry.beat(ours("n3"), 3.0)
    with pytest.raises(RegistryFull):
        registry.register(Registration("n3", "h:1"), 3.0)
    registry.beat(ours("n0"), 4.0)  # one that is known is still heard
    registry.beat(ours("n3"), 31.0)  # and room is made by silence


def test_no_more_text_than_the_registry_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_CHARS", 600)
    registry = Registry()
    registry.beat(ours("a", packages={"m": D1}), 0.0)
    with pytest.raises(RegistryFull):
        registry.beat(ours("b", active_meetings=(MeetingName("m", "t" * 450),)), 0.0)
    with pytest.raises(RegistryFull):
        registry.beat(ours("a", active_meetings=(MeetingName("m", "t" * 501),)), 0.0)
    assert [node.node_id for node in registry.nodes(0.0)] == ["a"]
    registry.unregister("a", 1.0)
    registry.beat(ours("b", active_meetings=(MeetingName("m", "t" * 450),)), 1.0)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0.0, 20.0), st.sampled_from("rbu")), max_size=60))
def test_liveness_is_that_of_a_naive_model(steps: list[tuple[str, float, str]]) -> None:
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
                registry.beat(ours(name), now)
            model[name] = now
            model.move_to_end(name)
        assert [node.node_id for node in registry.nodes(now)] == list(model)


def test_expiry_looks_at_no_more_nodes_than_it_drops() -> None:
    registry = Registry()
    for number in range(1000):
        registry.beat(ours(f"n{number}"), number / 100)
    looked = 0

    class Counting(OrderedDict[str, module.Node]):
        def values(self) -> object:  # type: ignore[override]
            nonlocal looked
            looked += 1
            return super().values()

    registry._nodes = Counting(registry._nodes)
    rng = random.Random(1)
    now = 10.0
    while registry._nodes:
        now += rng.random()
        registry.expire(now)
    # One look for each node dropped, and at most one more for each call.
    assert looked <= 1000 + 120
