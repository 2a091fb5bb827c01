"""The checks of meetings: faults of one meeting, packages that never fit, and invalidation."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager, contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from structlog.testing import capture_logs

from store import NeverFits, Ref, Store
from tests.support.meetings import (
    HoldingMaster,
    ScriptedMaster,
    UnchangedFolder,
    no_room,
    put,
    running_meetings,
)
from tests.support.memory_store import MemoryStore
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually
from trionode.backoff import FIRST_RETRY_SECONDS
from trionode.errors import MeetingUnknown, OriginError
from trionode.events import AutoResetEvent
from trionode.master.responses import MeetingList
from trionode.master.transport import CONNECTIONS
from trionode.meetings.poll_plan import CHECKS_AT_ONCE, Check
from trionode.meetings.service import Meetings
from trionode.meetings.states import MeetingState
from trionode.upkeep.eviction import Evictor
from trionode.upkeep.folder_watch import FolderWatch
from trionode.upkeep.repair import Repairer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from store import Digest, Manifest
    from tests.support.meetings import Running
    from trionode.meetings.meeting import Meeting


class Unverifiable(Store):
    """A store that cannot verify a version while there is a `fault`."""

    fault: Exception | None = None

    def verify(self, digest: Digest) -> None:
        if self.fault is not None:
            raise self.fault
        super().verify(digest)


@pytest.mark.parametrize("fault", [ValueError("no piece of it"), RuntimeError(), OSError(errno.EROFS, "read-only")])
async def test_a_fault_at_one_meeting_does_not_affect_others_and_its_check_is_repeated(
    tmp_path: Path, fault: Exception
):
    with Store.open(tmp_path / "storage") as before:
        bad = put(before, tmp_path, 200_000)
    # Opened again, so that the version is not trusted.
    store = Unverifiable.open(tmp_path / "storage")
    good = put(store, tmp_path, 300_000)
    master = ScriptedMaster()
    master.manifests = {"bad": bad, "good": good}
    store.fault = fault
    with capture_logs() as logs:
        async with running_meetings(store, master) as running:
            await running.poller.poll()
            await running.until_current("good")
            meeting = running.meetings.get("bad")
            assert meeting is not None
            await eventually(lambda: meeting.failures > 0)
            assert meeting.reason
            store.fault = None
            await running.until_current("bad")
            assert running.meetings.advertised() == {"bad": bad.digest, "good": good.digest}
    tracebacks = {line["event"] for line in logs if line.get("exc_info")}
    assert tracebacks == (set() if isinstance(fault, OSError) else {"the check of a meeting crashed"})


class StreamingMaster(ScriptedMaster):
    """A legacy master: it has no manifests, and does not send the length of a package."""

    protocol = 0
    token = "t"

    def __init__(self, package: Path) -> None:
        super().__init__()
        self.package_path = package
        self.sent: list[int] = []

    async def poll(self) -> MeetingList:
        return MeetingList(self.token, {"m": "m"})

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        raise OriginError("there is no such route", 404)

    @asynccontextmanager
    async def package(self, meeting_id: str) -> AsyncIterator[_Body]:
        self.sent.append(0)
        yield _Body(self)


class _Body:
    size = None

    def __init__(self, master: StreamingMaster) -> None:
        self._master = master

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._master.package_path.open("rb") as file:
            while data := file.read(64 << 10):
                self._master.sent[-1] += len(data)
                yield data
                await trio.lowlevel.checkpoint()


# The generator of a body that is not read to its end is left to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_package_that_never_fits_is_not_streamed_again_until_something_has_changed(tmp_path: Path):
    package = make_package(tmp_path / "p.zip", make_documents(1, 3_000_000), level=0)
    store = Store.open(tmp_path / "storage", max_bytes=1_000_000)
    master = StreamingMaster(package.path)

    async def check(running: Running, meeting: Meeting, times: int) -> None:
        for _ in range(times):
            before = meeting.check_ended_at
            running.meetings.request_check(meeting, Check.CERTAIN)
            await eventually(lambda before=before: meeting.check_ended_at != before)
            assert isinstance(meeting.lacks_room, NeverFits)

    async with running_meetings(store, master, Evictor(store, FolderWatch(store)).make_room) as running:
        await running.poller.poll()
        meeting = running.meetings.get("m")
        assert meeting is not None
        await check(running, meeting, 3)
        assert len(master.sent) == 1
        assert 900_000 < master.sent[0] < 1_500_000
        master.token = "u"  # the package may have been rebuilt, and be smaller
        await running.poller.poll()
        await check(running, meeting, 3)
        assert len(master.sent) == 2
        store.set_limits(max_bytes=4_000_000, min_free_bytes=0)
        running.meetings.retry(lambda meeting: meeting.lacks_room is not None)
        await running.until_current("m")
        assert master.sent[2:] == [package.path.stat().st_size]


async def test_each_meeting_gets_its_room_from_those_that_ended_before_it(tmp_path: Path):
    store = Store.open(tmp_path / "storage", max_bytes=6_000_000)
    master = HoldingMaster()
    before: list[Digest] = []
    async with running_meetings(store, master, Evictor(store, FolderWatch(store)).make_room) as running:
        for number in range(5):
            master.manifests.clear()
            path = make_package(tmp_path / f"{number}.zip", make_documents(1, 2_000_000 + number), level=0).path
            digest = master.offer(f"m{number}", path).digest
            master.let_go[digest].set()
            await running.poller.poll()
            await running.until_current(f"m{number}")
            before.append(digest)
            assert {version.digest for version in store.versions()} == set(before[-2:])


async def test_a_version_that_its_meeting_has_left_counts_as_used_until_then(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    master = HoldingMaster()
    async with running_meetings(store, master) as running:
        for number in range(2):
            path = make_package(tmp_path / f"{number}.zip", make_documents(1, 200_000 + number), level=0).path
            digest = master.offer("m", path).digest
            master.let_go[digest].set()
            await running.poller.poll()
            meeting = running.meetings.get("m")
            assert meeting is not None
            running.meetings.request_check(meeting, Check.CERTAIN)
            await eventually(lambda digest=digest: running.meetings.advertised() == {"m": digest})
        ref, versions = store.ref("m"), store.versions()
        assert ref is not None
        assert len(versions) == 2
        assert all(version.last_used >= ref.switched_at for version in versions)


# The generator of a body that is not read to its end is left to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_stream_without_room_is_fetched_again_only_with_more_room_or_a_new_token(tmp_path: Path):
    package = make_package(tmp_path / "p.zip", make_documents(1, 3_000_000), level=0)
    store = Store.open(tmp_path / "storage", max_bytes=4_000_000)
    other = put(store, tmp_path, 2_000_000)
    store.set_ref(Ref("other", other.digest, in_progress=False, pinned=True))
    master = StreamingMaster(package.path)

    async def check(running: Running, meeting: Meeting, times: int) -> None:
        for _ in range(times):
            before = meeting.check_ended_at
            running.meetings.request_check(meeting, Check.CERTAIN)
            await eventually(lambda before=before: meeting.check_ended_at != before)
            assert meeting.lacks_room is not None
            assert not isinstance(meeting.lacks_room, NeverFits)

    async with running_meetings(store, master, Evictor(store, FolderWatch(store)).make_room) as running:
        await running.poller.poll()
        meeting = running.meetings.get("m")
        assert meeting is not None
        await check(running, meeting, 3)
        assert len(master.sent) == 1
        assert meeting.lacks_room is not None
        assert meeting.lacks_room.available < 2_000_000 < meeting.lacks_room.needed <= master.sent[0]
        master.token = "u"
        await running.poller.poll()
        await check(running, meeting, 2)
        assert len(master.sent) == 2
        store.remove(other.digest)
        running.meetings.request_check(meeting, Check.CERTAIN)
        await running.until_current("m")
        assert master.sent[2:] == [package.path.stat().st_size]


class BuildingMaster(ScriptedMaster):
    """A master that lists a meeting and has no package of it yet."""

    def __init__(self) -> None:
        super().__init__()
        self.requested_at: list[float] = []

    async def poll(self) -> MeetingList:
        return MeetingList("t", {"m": "m"})

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        self.requested_at.append(trio.current_time())
        raise MeetingUnknown(meeting_id)


async def test_a_master_that_is_building_a_package_is_asked_again_at_short_intervals(
    autojump_clock: trio.testing.MockClock,
):
    store, master, rng = MemoryStore(), BuildingMaster(), Random(1)
    repairer: Any = Repairer(store, master)  # type: ignore[arg-type]
    meetings = Meetings(store, master, rng, no_room, UnchangedFolder(), repairer, AutoResetEvent())  # type: ignore[arg-type]
    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meetings.run)
            await meetings.apply(await master.poll(), full=False)
            await trio.sleep_forever()
    pauses = [after - before for before, after in zip(master.requested_at, master.requested_at[1:], strict=False)]
    assert len(pauses) >= 100
    assert max(pauses) <= FIRST_RETRY_SECONDS


async def test_a_version_that_is_lost_is_not_advertised_until_it_was_fetched_again(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    master = HoldingMaster()
    package = make_package(tmp_path / "p.zip", make_documents(1, 200_000), level=0).path
    digest = master.offer("m", package).digest
    master.let_go[digest].set()
    async with running_meetings(store, master) as running:
        await running.poller.poll()
        await running.until_current("m")
        assert (running.meetings.fill_stats.done, running.meetings.fill_stats.failed) == (1, 0)
        meeting = running.meetings.get("m")
        assert meeting is not None
        store.remove(digest)
        assert not await running.repairer.ensure(digest)
        assert (meeting.state, running.meetings.advertised()) == (MeetingState.UNCONFIRMED, {})
        await running.until_current("m")
        assert running.meetings.advertised() == {"m": digest}
        assert running.meetings.fill_stats.done == 2


async def test_a_meeting_that_another_process_has_switched_is_checked_before_it_is_advertised(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    right, other = put(store, tmp_path, 200_000), put(store, tmp_path, 300_000)
    master = ScriptedMaster()
    master.manifests = {"m": right}
    watch = FolderWatch(store)
    repairer = Repairer(store, master)  # type: ignore[arg-type]
    meetings = Meetings(store, master, Random(1), no_room, watch, repairer, AutoResetEvent())  # type: ignore[arg-type]
    await meetings.apply(await master.poll(), full=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meetings.run)
        await eventually(meetings.advertised)
        nursery.cancel_scope.cancel()
    with Store.open(tmp_path / "storage") as command:
        command.set_ref(Ref("m", other.digest, "m"))
    await watch.refresh()  # no check is running: what follows is only requested
    meeting = meetings.get("m")
    assert meeting is not None
    assert (meeting.state, meetings.advertised()) == (MeetingState.UNCONFIRMED, {})
    assert meeting.pending_check is Check.CERTAIN
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meetings.run)
        await eventually(meetings.advertised)
        nursery.cancel_scope.cancel()
    assert meetings.advertised() == {"m": right.digest}
    store.close()


async def test_the_end_of_the_checks_ends_fills_for_those_that_follow(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    master = HoldingMaster()
    master.offer("m", make_package(tmp_path / "p.zip", make_documents(1, 200_000), level=0).path)
    async with running_meetings(store, master) as running:
        await running.poller.poll()
        (fill,) = await eventually(running.meetings.fills)
        assert not fill.finished
    assert fill.finished
    assert str(fill.error) == "the package could not be fetched: the node is stopping"


class CountingStore(Store):
    """A store that counts how often it is compared with the folder."""

    compared = 0

    def differs_from_disk(self) -> bool:
        self.compared += 1
        return super().differs_from_disk()


class CountingMaster(HoldingMaster):
    """A master that counts its calls in progress."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.most = 0
        self.asked: list[str] = []

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        self.asked.append(meeting_id)
        with self._counted():
            return await super().manifest(meeting_id, known)

    async def fetch_range(self, digest: str, start: int, stop: int) -> bytes:
        with self._counted():
            return await super().fetch_range(digest, start, stop)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.calls += 1
        self.most = max(self.most, self.calls)
        try:
            yield
        finally:
            self.calls -= 1


async def test_many_meetings_leave_connections_free_and_have_the_storage_compared_once(tmp_path: Path):
    store, master, count = CountingStore.open(tmp_path / "storage"), CountingMaster(), 40
    for number in range(count):
        package = make_package(tmp_path / f"{number}.zip", make_documents(1, 10_000 + number), level=0)
        master.offer(f"m{number}", package.path)
    async with running_meetings(store, master) as running:
        await running.poller.poll()
        await eventually(lambda: len(running.meetings.fills()) == CHECKS_AT_ONCE)
        compared = store.compared
        for held in master.let_go.values():
            held.set()
        for number in range(count):
            await running.until_current(f"m{number}")
        assert 2 * CHECKS_AT_ONCE < CONNECTIONS
        assert master.most <= CHECKS_AT_ONCE
        assert store.compared == compared


async def test_a_meeting_that_ends_before_its_first_check_is_not_checked(tmp_path: Path):
    store, master = Store.open(tmp_path / "storage"), CountingMaster()
    names = [f"m{number}" for number in range(CHECKS_AT_ONCE + 3)]
    for name in names:
        master.offer(name, make_package(tmp_path / f"{name}.zip", make_documents(1, 10_000, seed=name), level=0).path)
    async with running_meetings(store, master) as running:
        await running.poller.poll()
        await eventually(lambda: len(running.meetings.fills()) == CHECKS_AT_ONCE)
        waiting = set(names) - set(master.asked)
        ended = [running.meetings.get(name) for name in waiting]
        for name in waiting:
            del master.manifests[name]
        await running.poller.poll()
        for held in master.let_go.values():
            held.set()
        for name in set(names) - waiting:
            await running.until_current(name)
        await eventually(lambda: not any(meeting is not None and meeting.has_task for meeting in ended))
        assert len(waiting) == 3
        assert waiting.isdisjoint(master.asked)
