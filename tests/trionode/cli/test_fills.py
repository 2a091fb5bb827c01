"""Fills in progress, in words."""

from __future__ import annotations

import pytest

from trionode.cli.fills import describe_fill

FILL = {
    "source": "node-a",
    "filled": 4_500_000,
    "size": 10_000_000,
    "fetched": {"node-a": 4_500_000},
    "bytes_per_second": 2_000_000,
    "seconds_left": 2.8,
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "4.5 MB of 10.0 MB (45 %) from node-a, 2.0 MB/s, 3 s left"),
        ({"seconds_left": 200.2}, "4.5 MB of 10.0 MB (45 %) from node-a, 2.0 MB/s, 3 min 20 s left"),
        ({"size": None, "seconds_left": None, "source": "master"}, "4.5 MB from master, 2.0 MB/s"),
        (
            {"fetched": {"master": 3_000_000, "node-a": 1_500_000}},
            "4.5 MB of 10.0 MB (45 %) from node-a, 2.0 MB/s, 3 s left; fetched 3.0 MB from master, 1.5 MB from node-a",
        ),
    ],
)
def test_a_fill_is_described_in_one_line(changed: dict[str, object], words: str):
    assert describe_fill({**FILL, **changed}) == words
