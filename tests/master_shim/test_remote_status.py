"""Who fetches from whom, as `master-shim status` prints it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master_shim.remote_status import chains


@pytest.mark.parametrize(
    ("sources", "lines"),
    [
        ({}, []),
        ({"n1": ""}, ["n1 <- master"]),
        ({"n3": "n2", "n2": "n1", "n1": ""}, ["n3 <- n2 <- n1 <- master"]),
        ({"n1": "", "n2": "n1", "n3": "n1"}, ["n2 <- n1 <- master", "n3 <- n1"]),
        ({"n1": "holder", "n2": ""}, ["n1 <- holder", "n2 <- master"]),
        ({"master": "", "n1": "master"}, ["n1 <- master <- master"]),  # a node of this name
        # Reports of different moments, or false ones.
        ({"n1": "n2", "n2": "n1"}, ["n1 <- n2 <- n1"]),
        ({"n1": "n1"}, ["n1 <- n1"]),
        ({"n1": "n2", "n2": "n1", "n3": "n1"}, ["n3 <- n1 <- n2 <- n1"]),
    ],
)
def test_each_node_is_printed_with_its_source(sources: dict[str, str], lines: list[str]) -> None:
    assert [" <- ".join(line) for line in chains(sources)] == lines


names = st.sampled_from("abcdefgh")


@given(st.dictionaries(names, st.one_of(st.just(""), names)))
def test_whatever_nodes_report_each_is_printed_once_with_its_source(sources: dict[str, str]) -> None:
    printed = [pair for line in chains(sources) for pair in pairwise(line)]
    assert sorted(printed) == sorted((name, source or "master") for name, source in sources.items())
