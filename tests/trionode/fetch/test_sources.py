"""Which fills ask other nodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from master_shim.protocol import VersionNode
from master_shim.protocol.chain import legacy_key, rank
from trionode.fetch.live_fill import LiveFill
from trionode.fetch.source_factory import SMALL_BYTES, Peers, SourceFactory
from trionode.fetch.sources import MAX_FAULTS
from trionode.stats import PeerStats


@pytest.mark.parametrize(("missing", "lists"), [(SMALL_BYTES - 1, 0), (SMALL_BYTES, 1)])
async def test_a_small_fill_asks_the_master_alone(missing: int, lists: int):
    asked: list[str] = []

    async def of_version(digest: str) -> list[VersionNode]:
        asked.append(digest)
        return []

    nodes: Any = SimpleNamespace(of_version=of_version)
    client: Any = None
    master: Any = None
    factory = SourceFactory(master, Peers("n", client, nodes, PeerStats()))
    digest: Any = "d"
    async with factory.of_version(LiveFill("m", digest, 1 << 20), digest, missing) as sources:
        assert sources.choose().source == ""
    assert len(asked) == lists


async def test_a_node_from_which_no_package_comes_is_asked_again_once():
    async def of_meeting(*_: str) -> list[VersionNode]:
        return [VersionNode(first, "127.0.0.1:9")]

    first, own = sorted(("a", "b"), key=lambda name: rank(legacy_key("m", "t"), name))
    nodes: Any = SimpleNamespace(of_meeting=of_meeting)
    client: Any = None
    master: Any = None
    factory = SourceFactory(master, Peers(own, client, nodes, PeerStats()))
    chosen: list[str] = []
    for _ in range(MAX_FAULTS + 1):
        async with factory.of_meeting(LiveFill("m", token="t")) as sources:
            chosen.append(sources.choose().source)
            sources.doubt(first, "a member has the wrong checksum")
    assert chosen == [first] * MAX_FAULTS + [""]
