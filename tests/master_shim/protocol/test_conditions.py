"""HTTP dates, ETag comparison and content negotiation. The precedence of conditions is tested in test_answer.py."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master_shim.protocol.conditions import accepts_gzip, not_modified, parse_date

ETAG = '"' + "a" * 64 + '"'
NOW = 1795514400


@given(st.integers(0, 253402300799))
def test_a_date_is_read_as_it_is_written(at: int) -> None:
    assert parse_date(formatdate(at, usegmt=True), NOW) == at


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("Sunday, 06-Nov-76 08:49:37 GMT", 3371878177),
        ("Sunday, 06-Nov-77 08:49:37 GMT", 247654177),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228799),
        ("Sun, 06 Nov 1994 08:49:37", None),
        ("Sun, 06 Nov 1994 08:49:37 CST", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 24:49:37 GMT", None),
        ("06 Nov 1994", None),
        ("", None),
    ],
)
def test_dates(text: str, wanted: int | None) -> None:
    assert parse_date(text, NOW) == wanted


def test_not_modified_compares_weakly() -> None:
    assert not_modified(f"W/{ETAG}", ETAG)
    assert not not_modified('"other"', ETAG)
    assert not not_modified(None, ETAG)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("br, deflate", False),
        ("identity", False),
        ("", False),
        ("gzip;q=x", False),
        (";;,,", False),
    ],
)
def test_accept_encoding(header: str, wanted: bool) -> None:
    assert accepts_gzip(header) is wanted
