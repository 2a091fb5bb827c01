"""The limits that the connections of a server share."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from trionode.server.hypercorn.limits import MAX_LINGERING, RESERVED_FILES, WARN_SECONDS, ConnectionLimits
from trionode.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN_FILES = 1000


@pytest.fixture
def open_files() -> Iterator[None]:
    """Limit the open files of this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("open_files")
def test_connections_are_limited_by_the_open_files_and_by_the_setting():
    limits = ConnectionLimits()
    assert limits.max_connections == OPEN_FILES - RESERVED_FILES
    limits.configure(Settings(max_connections=100))
    assert limits.max_connections == 100
    limits.configure(Settings(max_connections=100_000))
    assert limits.max_connections == OPEN_FILES - RESERVED_FILES
    limits.configure(Settings())
    assert limits.max_connections == OPEN_FILES - RESERVED_FILES


def test_the_minimum_data_rate_is_that_of_the_settings():
    limits = ConnectionLimits()
    limits.configure(Settings(progress_seconds=7, progress_bytes=123))
    assert (limits.min_data_rate.seconds, limits.min_data_rate.bytes) == (7, 123)


def test_connections_up_to_the_limit_are_opened():
    limits = ConnectionLimits()
    limits.configure(Settings(max_connections=2))
    assert [limits.try_open() for _ in range(3)] == [True, True, False]
    assert limits.open_connections == 2
    limits.close()
    assert limits.try_open()


def test_a_lower_limit_keeps_open_connections():
    limits = ConnectionLimits()
    for _ in range(3):
        assert limits.try_open()
    limits.configure(Settings(max_connections=1))
    assert limits.open_connections == 3
    limits.close()
    assert not limits.try_open()


def test_refused_connections_are_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch):
    limits = ConnectionLimits()
    limits.max_connections = 1
    assert limits.try_open()
    with capture_logs() as lines:
        assert not any(limits.try_open() for _ in range(3))
        assert [(line["log_level"], line["limit"]) for line in lines] == [("warning", 1)]
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + WARN_SECONDS)
        assert not any(limits.try_open() for _ in range(3))
        assert len(lines) == 2


def test_refused_connections_beyond_a_number_are_not_kept():
    limits = ConnectionLimits()
    with ExitStack() as stack:
        assert all(stack.enter_context(limits.lingering()) for _ in range(MAX_LINGERING))
        with limits.lingering() as lingers:
            assert not lingers
    with limits.lingering() as lingers:
        assert lingers
