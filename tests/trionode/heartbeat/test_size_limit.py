"""The size limit of heartbeats: every master accepts what is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from master_shim.asgi import MAX_BODY_BYTES
from master_shim.protocol import (
    MAX_HEARTBEAT_BYTES,
    MAX_HEARTBEAT_ITEMS,
    MAX_MEETING_ID_BYTES,
    Heartbeat,
    Load,
    MeetingName,
)
from master_shim.registry import MAX_ID_CHARS, Registry
from tests.support.masters import ShimMaster
from trionode.heartbeat.size_limit import FEW_TICKETS, limit_size

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Spawner

DIGEST = "0" * 64


def beat(
    meetings: int, *, name: str = "m", title: str = "t", tickets: int = 0, filling: int = 0, source: str = ""
) -> Heartbeat:
    ids = [f"{name}{number:06}" for number in range(meetings)]
    digests = [f"{number:064}" for number in range(filling)]
    return Heartbeat(
        "n" * 128,
        "a" * 250 + ":65535",
        active_meetings=tuple(MeetingName(one, title) for one in ids),
        synced_meetings=tuple(ids),
        load=Load(1, 2, 3.0),
        packages=dict.fromkeys(ids, DIGEST),
        filling=tuple(digests),
        sources=dict.fromkeys(digests, source),
        tickets=tuple(f"{number:064}" for number in range(tickets)),
        protocol=1,
    )


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 3 * MAX_HEARTBEAT_ITEMS),
    st.sampled_from(["m", "m" * (MAX_MEETING_ID_BYTES - 6), "会" * (MAX_MEETING_ID_BYTES // 3 - 6)]),
    st.sampled_from(["", "t", "题" * 100, "\x01" * 512, "t" * 2_000]),
    st.integers(0, 5_000),
    st.integers(0, 2 * MAX_HEARTBEAT_ITEMS),
    st.sampled_from(["", "n" * MAX_ID_CHARS, "\x01" * MAX_ID_CHARS]),
)
def test_the_shim_accepts_every_heartbeat(
    meetings: int, name: str, title: str, tickets: int, filling: int, source: str
):
    whole = beat(meetings, name=name, title=title, tickets=tickets, filling=filling, source=source)
    sent = limit_size(whole)
    assert len(msgspec.json.encode(sent)) <= MAX_HEARTBEAT_BYTES < MAX_BODY_BYTES
    Registry().heartbeat(sent, 0.0)
    # The newest meetings are complete and in order, and no others are named.
    kept = [meeting.id for meeting in sent.active_meetings]
    assert kept == [meeting.id for meeting in whole.active_meetings][meetings - len(kept) :]
    assert list(sent.synced_meetings) == list(sent.packages) == kept
    assert sent.sources.keys() <= set(sent.filling)


def test_a_heartbeat_within_the_limit_is_not_changed():
    whole = beat(1_000, title="t" * 200, tickets=5_000)
    assert limit_size(whole) is whole


def test_sources_which_are_only_displayed_are_left_out_first():
    sent = limit_size(beat(1_000, tickets=5_000, filling=2_000, source="n" * MAX_ID_CHARS))
    assert (len(sent.tickets), len(sent.filling), sent.sources) == (5_000, 2_000, {})


def test_tickets_and_titles_are_cut_before_any_meeting_is_left_out():
    sent = limit_size(beat(3_000, title="t" * 500, tickets=5_000))
    assert (len(sent.active_meetings), len(sent.tickets)) == (3_000, FEW_TICKETS)
    assert {len(meeting.title) for meeting in sent.active_meetings} == {64}


@pytest.mark.parametrize("meetings", [1_001, 2 * MAX_HEARTBEAT_ITEMS])
def test_a_node_with_thousands_of_meetings_is_available_at_the_shim(spawn: Spawner, tmp_path: Path, meetings: int):
    master = ShimMaster(spawn, tmp_path)
    body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(limit_size(beat(meetings, title="题" * 2_000))))
    body["address"] = "127.0.0.1:9"
    answer = httpx.post(f"{master.url}/api/v1/nodes/heartbeat", json=body, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    assert master.get("/api/v1/nodes/available").json()["nodes"] == ["127.0.0.1:9"]
