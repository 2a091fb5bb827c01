"""Parsers of settings: what a user may write, and the value that it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from trionode.parsing import (
    ADDRESS,
    BYTES,
    HOST,
    LOWEST_RATE,
    PROGRESS,
    RATE,
    SCRUB_RATE,
    URL,
    Kind,
    choice,
    path,
    seconds,
    whole_number,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("1024", 1024), ("5K", 5 << 10), ("1.5G", 3 << 29), ("2TiB", 2 << 40), ("7 mb", 7 << 20), (8, 8)],
)
def test_bytes_may_have_a_unit(text: object, number: int):
    assert BYTES.parse(text) == number


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        (URL, " https://master:8443/ ", "https://master:8443"),
        (ADDRESS, "host:008001", "host:8001"),
        (ADDRESS, "host:８００１", "host:8001"),
        (ADDRESS, "[::1]:80", "[::1]:80"),
        (HOST, " 127.0.0.1 ", "127.0.0.1"),
        (path("x"), "/srv/x", Path("/srv/x")),
        (path("x"), Path("/srv/x"), Path("/srv/x")),
        (whole_number(0, 9, "x"), "9", 9),
        (whole_number(0, 9, "x"), 0, 0),
        (seconds(1, 60), "1.5", 1.5),
        (seconds(1, 60), 60, 60.0),
        (RATE, "0", 0),
        (RATE, "64K", LOWEST_RATE),
        (choice("info", "debug"), "INFO", "info"),
    ],
)
def test_values(kind: Kind, value: object, parsed: object):
    assert kind.parse(value) == parsed


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (URL, "http://master:8000/?x"),
        (URL, "http://master:0"),
        (ADDRESS, "host:8_0x"),
        (ADDRESS, "host:-1"),
        (HOST, "a\nb"),
        (HOST, 5),
        (whole_number(1, 9, "x"), "0"),
        (whole_number(1, 9, "x"), "10"),
        (seconds(1, 60), "inf"),
        (seconds(1, 60), [1]),
        (BYTES, True),
        (BYTES, 1.5),
        (BYTES, "٣"),
        (RATE, "8"),
        (RATE, LOWEST_RATE - 1),
        (choice("info", "debug"), "trace"),
    ],
)
def test_a_value_that_is_not_allowed_raises(kind: Kind, value: object):
    with pytest.raises((ValueError, TypeError)):
        kind.parse(value)


def test_zero_means_what_the_setting_says():
    assert SCRUB_RATE.allowed.endswith("0 to read nothing")
    assert "no limit" not in PROGRESS.allowed
