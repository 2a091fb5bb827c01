from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import (
    Digest,
)
from store.layout import QUOTED_BYTES, Layout, parse_name, quote
from tests.store.helpers import (
    HOSTILE_IDS,
)

ids = st.one_of(st.text(), st.text(st.characters(codec=None)), st.sampled_from(HOSTILE_IDS))


SAFE = re.compile(r"(?:[A-Za-z0-9_-]|%[0-9A-F]{2}){1,200}|~[0-9a-f]{64}", re.ASCII)


@given(ids)
def test_any_id_becomes_a_safe_file_name(meeting):
    name = quote(meeting)
    assert SAFE.fullmatch(name)
    path = Layout(Path("/storage")).ref(meeting)
    assert path.parent == Path("/storage/meetings")
    assert len(path.name.encode()) <= 255


@given(ids, ids)
def test_different_ids_have_different_names(one, two):
    assert (quote(one) == quote(two)) == (one == two)


def test_examples_of_quoted_ids():
    assert quote("meeting-7_A") == "meeting-7_A"
    assert quote("..") == "%2E%2E"
    assert quote("a/b\0") == "a%2Fb%00"
    assert quote("会") == "%E4%BC%9A"
    assert quote("x" * QUOTED_BYTES) == "x" * QUOTED_BYTES
    assert quote("x" * (QUOTED_BYTES + 1)) == "~" + Digest.of(b"x" * (QUOTED_BYTES + 1))
    assert quote("") == "~" + Digest.of(b"")


@given(st.text())
def test_stream_names_are_digests(name):
    assert re.fullmatch(r"[0-9a-f]{64}\.stream", Layout(Path("s")).stream(name).name)


@pytest.mark.parametrize(
    "name", ["x", "a.zip", "A" * 64 + ".zip", "a" * 64, "a" * 64 + ".zip.json", "a" * 64 + ".zip\n"]
)
def test_other_names_do_not_parse(name):
    assert parse_name(name) is None


def test_names_of_packages_parse():
    assert parse_name("a" * 64 + ".zip") == ("a" * 64, "zip")
