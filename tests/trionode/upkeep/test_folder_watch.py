"""Changes that other processes make in the storage folder: seen once, and passed on to the subscribers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs

from store import Ref, Store
from tests.store.samples import fill_whole, package
from tests.support.waiting import eventually
from trionode.upkeep import folder_watch
from trionode.upkeep.folder_watch import TICK_NS, FolderWatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW_NS = 1_800_000_000_000_000_000


class CountingStore(Store):
    """A store that counts how often its names are compared with the folder."""

    compared = 0

    def differs_from_disk(self) -> bool:
        self.compared += 1
        return super().differs_from_disk()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CountingStore]:
    with CountingStore.open(tmp_path / "storage") as opened:
        yield opened


@pytest.fixture
def command(store: CountingStore, tmp_path: Path) -> Iterator[Store]:
    """The same folder, as a command in another process has it."""
    with Store.open(tmp_path / "storage") as opened:
        yield opened


async def test_after_a_refresh_the_store_knows_every_change_before_it(store: CountingStore, command: Store):
    watch, calls = FolderWatch(store), list[int]()
    watch.subscribe(lambda: calls.append(len(store.versions())))
    await watch.refresh()
    assert calls == []
    for number in range(5):  # also within one tick of the kernel's clock
        digest = fill_whole(command, package(number, count=1)).digest
        await watch.refresh()
        assert store.holds(digest)
    assert calls == [1, 2, 3, 4, 5]
    command.set_ref(Ref("m", digest, "m"))
    await watch.refresh()
    assert store.ref("m") == command.ref("m")
    for pinned in (True, False, True):
        command.change_ref("m", lambda ref, pinned=pinned: None if ref is None else replace(ref, pinned=pinned))
        await watch.refresh()
        ref = store.ref("m")
        assert ref is not None
        assert ref.pinned is pinned
    command.remove(digest)
    await watch.refresh()
    assert not store.holds(digest)
    assert len(calls) == 10


async def test_what_the_node_itself_changes_is_no_change_for_the_subscribers(store: CountingStore):
    watch, calls = FolderWatch(store), list[int]()
    watch.subscribe(lambda: calls.append(1))
    digest = fill_whole(store, package()).digest
    await watch.refresh()
    store.set_ref(Ref("m", digest, "m"))
    await watch.refresh()
    assert calls == []


async def test_an_unchanged_folder_is_compared_once(store: CountingStore):
    watch = FolderWatch(store)

    async def settled() -> bool:
        before = store.compared
        await watch.refresh()
        return store.compared == before

    await eventually(settled)
    before = store.compared
    for _ in range(10):
        await watch.refresh()
    assert store.compared == before


class CoarseStore(CountingStore):
    """A store on a file system on which all changes of a test have the same time."""

    def folder_mtimes(self) -> tuple[int, int]:
        return (NOW_NS, NOW_NS)


async def test_two_changes_within_one_tick_of_the_clock_are_both_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(time_ns=lambda: NOW_NS + TICK_NS - 1)
    monkeypatch.setattr(folder_watch, "time", clock)
    with CoarseStore.open(tmp_path / "storage") as store, Store.open(tmp_path / "storage") as command:
        watch = FolderWatch(store)
        for number in range(3):
            digest = fill_whole(command, package(number, count=1)).digest
            await watch.refresh()
            assert store.holds(digest)
        clock.time_ns = lambda: NOW_NS + TICK_NS
        await watch.refresh()
        compared = store.compared
        await watch.refresh()
        assert store.compared == compared, "no change can have this time any more"


async def test_the_task_sees_a_change_by_itself(store: CountingStore, command: Store):
    watch, seen = FolderWatch(store), trio.Event()
    watch.subscribe(seen.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        digest = fill_whole(command, package()).digest
        with trio.fail_after(10):
            await seen.wait()
        assert store.holds(digest)
        nursery.cancel_scope.cancel()


async def test_a_folder_that_cannot_be_read_does_not_end_the_task(store: CountingStore, command: Store, tmp_path: Path):
    watch, seen = FolderWatch(store), trio.Event()
    watch.subscribe(seen.set)
    meetings = tmp_path / "storage" / "meetings"
    meetings.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="meetings"):
        await watch.refresh()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.testing.wait_all_tasks_blocked()
        (tmp_path / "elsewhere").rename(meetings)
        fill_whole(command, package())
        with trio.fail_after(10):
            await seen.wait()
        nursery.cancel_scope.cancel()


async def test_a_folder_that_is_missing_is_logged_once_a_minute(
    store: CountingStore, tmp_path: Path, autojump_clock: trio.testing.MockClock
):
    watch, elsewhere = FolderWatch(store), tmp_path / "elsewhere"
    (tmp_path / "storage").rename(elsewhere)
    with capture_logs() as lines:
        with trio.move_on_after(2.5 * folder_watch.WARN_SECONDS):
            await watch.run()
        assert [line["event"][:33] for line in lines] == 3 * ["the storage folder cannot be read"]
        elsewhere.rename(tmp_path / "storage")
        with trio.move_on_after(2.5 * folder_watch.WARN_SECONDS):
            await watch.run()
    assert [line["event"] for line in lines[3:]] == ["the storage folder can be read again"]
