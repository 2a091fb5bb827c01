"""Which fills ask other nodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from trionode.fetch.live_fill import LiveFill
from trionode.fetch.sources import SMALL_BYTES, Peers, SourceFactory
from trionode.stats import PeerStats

if TYPE_CHECKING:
    from master_shim.protocol import VersionNode


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
