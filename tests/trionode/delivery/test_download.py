"""One download: its wait for a permit, in virtual time, and how its end is counted and logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs

from trionode.delivery.admission import Downloads, Outcome
from trionode.delivery.download import MAX_LOGGED_RANGE_CHARS, Download, DownloadInfo
from trionode.delivery.http import HEAD_SECONDS
from trionode.errors import AtCapacity
from trionode.settings import Settings

if TYPE_CHECKING:
    from trio.testing import MockClock


def one_at_a_time() -> Downloads:
    downloads = Downloads(on_full=lambda: None)
    downloads.configure(Settings(max_downloads=1, queue_seconds=4))
    return downloads


def info(requested_range: str | None = None) -> DownloadInfo:
    return DownloadInfo("m", "ab" * 32, "127.0.0.1", requested_range, trio.current_time())


async def test_a_download_that_is_queued_too_long_is_refused_and_later_ones_move_up(autojump_clock: MockClock):
    downloads = one_at_a_time()
    first = Download(downloads, info())
    await first.wait_admitted()
    began = trio.current_time()
    late = Download(downloads, info())
    with pytest.raises(AtCapacity):
        await late.wait_admitted()
    assert trio.current_time() - began == pytest.approx(4)
    late.close()
    second = Download(downloads, info())
    with pytest.raises(AtCapacity):
        Download(downloads, info())  # the queue is full
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.wait_admitted)
        await trio.sleep(1)
        first.close()
    assert downloads.active == 1
    second.close()
    assert (downloads.active, downloads.queued) == (0, 0)
    assert downloads.outcomes == {Outcome.REFUSED: 2, Outcome.LEFT: 2}


async def test_the_head_of_an_answer_is_not_later_because_the_version_was_waited_for(autojump_clock: MockClock):
    downloads = one_at_a_time()
    downloads.configure(Settings(max_downloads=1, queue_seconds=15))
    await Download(downloads, info()).wait_admitted()
    late, began = info(), trio.current_time()
    await trio.sleep(12)  # until it was known which version is current
    queued = Download(downloads, late)
    with pytest.raises(AtCapacity):
        await queued.wait_admitted()
    assert trio.current_time() - began == pytest.approx(HEAD_SECONDS)
    queued.close()
    assert downloads.outcomes == {Outcome.REFUSED: 1}


async def test_a_client_that_leaves_the_queue_leaves_no_entry_in_it(autojump_clock: MockClock):
    downloads = one_at_a_time()
    first = Download(downloads, info())
    queued = Download(downloads, info())
    with trio.move_on_after(1):
        await queued.wait_admitted()
    queued.close()
    assert (downloads.active, downloads.queued) == (1, 0)
    first.close()
    assert downloads.active == 0


async def test_the_end_of_a_download_is_one_line_in_the_log_with_a_bounded_range():
    downloads = one_at_a_time()
    with capture_logs() as lines:
        Download(downloads, info("bytes=" + "0-0," * 1000)).close()
    (line,) = lines
    assert (line["event"], line["log_level"], line["outcome"]) == ("download", "info", "left")
    assert (line["meeting"], line["client"]) == ("m", "127.0.0.1")
    assert len(line["range"]) == MAX_LOGGED_RANGE_CHARS
