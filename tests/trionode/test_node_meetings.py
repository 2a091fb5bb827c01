"""The meetings of a node against a master that is told what to say: races and silences that no real one times."""

from __future__ import annotations

import errno
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from master_shim.asgi import MAX_BODY_BYTES
from store import DiskStore, NeverFits, Ref
from store.reading import split_file
from tests.support.packages import make_documents, make_package
from trionode.delivery.admission import Downloads
from trionode.delivery.checked import CheckedLease
from trionode.delivery.source import acquire
from trionode.errors import OriginError, OriginUnreachable
from trionode.metrics import Sample
from trionode.sync.eviction import Evictor
from trionode.sync.healing import Healer
from trionode.sync.heartbeat import MAX_TICKETS, Pulse
from trionode.sync.meetings import Meetings
from trionode.sync.plan import Check, Look, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from store import Digest, Manifest, Usage
    from trionode.sync.fetch import MakeRoom
    from trionode.sync.meeting import Meeting

PATIENCE = 0.5
"""What a call to a silent master takes, in place of `sources.CALL_SECONDS`."""


class Says:
    """A master with the shim: what is in progress, and the manifests of it; or silent."""

    protocol = 1

    def __init__(self) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.silent = False
        self.asked = 0

    async def look(self) -> Look:
        self.asked += 1
        if self.silent:
            await trio.sleep(PATIENCE)
            raise OriginUnreachable("it is silent")
        return Look("t", {meeting_id: meeting_id for meeting_id in self.manifests})

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        await trio.lowlevel.checkpoint()
        found = self.manifests[meeting_id]
        return None if found.digest == known else found


async def no_room(needed: int, *, full_disk: bool = False) -> None:
    raise AssertionError("there is room")


def put(store: DiskStore, tmp_path: Path, size: int) -> Manifest:
    """Store a package."""
    package = make_package(tmp_path / f"{size}.zip", make_documents(1, size), level=0)
    manifest = split_file(package.path)
    content = package.path.read_bytes()
    fill = store.begin_fill(manifest)
    for chunk in fill.missing():
        fill.write(chunk, content[chunk.offset : chunk.offset + chunk.size])
    fill.commit()
    fill.close()
    return manifest


@asynccontextmanager
async def meetings_of(store: DiskStore, master: Says, make_room: MakeRoom = no_room) -> AsyncIterator[Meetings]:
    meetings = Meetings(store, master, Random(1), make_room)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        meetings.nursery = nursery
        yield meetings
        nursery.cancel_scope.cancel()
    store.close()


async def until_current(meetings: Meetings, meeting_id: str) -> None:
    while (meeting := meetings.get(meeting_id)) is None or meeting.state is not State.CURRENT:
        await trio.sleep(0.01)


class SlowRefs(DiskStore):
    """A store in which the first switch of the meeting a takes until b has its new version, or a while."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.switched = threading.Event()
        self.slow = False

    def change_ref(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        if self.slow and meeting_id == "a":
            self.slow = False
            self.switched.wait(0.5)
        return super().change_ref(meeting_id, change)


async def test_a_switch_outlives_the_note_of_who_is_in_progress(tmp_path: Path):
    store = SlowRefs.open(tmp_path / "storage")
    old, new = put(store, tmp_path, 200_000), put(store, tmp_path, 300_000)
    for meeting_id in ("a", "b"):
        store.set_ref(Ref(meeting_id, old.digest, meeting_id, in_progress=False, ended_at=1.0))
    master = Says()
    master.manifests = {"a": old, "b": new}
    async with meetings_of(store, master) as meetings:
        store.slow = True
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(meetings.look)
                await until_current(meetings, "b")
                store.switched.set()
            await until_current(meetings, "a")
        assert meetings.promised() == {"a": old.digest, "b": new.digest}
        assert all(ref.in_progress for ref in store.refs())


async def test_what_is_stored_is_served_to_all_who_come_while_the_master_is_silent(tmp_path: Path):
    store = DiskStore.open(tmp_path / "storage")
    manifest = put(store, tmp_path, 200_000)
    store.set_ref(Ref("m", manifest.digest, "m"))
    master = Says()
    master.silent = True
    got: list[CheckedLease] = []

    async def ask(meetings: Meetings) -> None:
        source = await acquire(meetings, "m", None)
        assert isinstance(source, CheckedLease)
        source.close()
        got.append(source)

    async with meetings_of(store, master) as meetings:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask, meetings)
        assert (len(got), master.asked) == (20, 1)


def pulse_of(meetings: Meetings) -> Pulse:
    return Pulse("n", "127.0.0.1:1", meetings, Downloads(), Sample)


@pytest.mark.parametrize("character", ["x", "\x01", "会", '"'])
async def test_no_tickets_make_a_beat_that_a_master_refuses(tmp_path: Path, character: str):
    async with meetings_of(DiskStore.open(tmp_path), Says()) as meetings:
        pulse = pulse_of(meetings)
        for number in range(MAX_TICKETS):
            pulse.saw_ticket(f"{number:05}".ljust(64, character))
        assert len(msgspec.json.encode(pulse.next_beat())) < MAX_BODY_BYTES / 2


async def test_tickets_that_one_beat_does_not_hold_come_with_the_next(tmp_path: Path):
    async with meetings_of(DiskStore.open(tmp_path), Says()) as meetings:
        pulse = pulse_of(meetings)
        tickets = [f"{number:016x}" for number in range(MAX_TICKETS)]
        for ticket in tickets:
            pulse.saw_ticket(ticket)
        told: list[str] = []
        while (beat := pulse.next_beat()).tickets:
            told += beat.tickets
            pulse.answered(beat)
        assert told == tickets


class Faulty(DiskStore):
    """A store whose calls of one name raise what they are told, once it is told."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.faults: dict[str, Exception] = {}
        self.once = False

    def _perhaps(self, call: str) -> None:
        if call in self.faults:
            raise self.faults.pop(call) if self.once else self.faults[call]

    def change_ref(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        self._perhaps("change_ref")
        return super().change_ref(meeting_id, change)

    def verify(self, digest: Digest) -> None:
        self._perhaps("verify")
        super().verify(digest)

    def repair(self, *arguments: Any) -> bool:
        self._perhaps("repair")
        return super().repair(*arguments)

    def remove(self, digest: Digest) -> None:
        self._perhaps("remove")
        super().remove(digest)

    def usage(self) -> Usage:
        self._perhaps("usage")
        return super().usage()


@pytest.mark.parametrize("fault", [ValueError("no piece of it"), RuntimeError(), OSError(errno.EROFS, "read-only")])
async def test_one_meetings_fault_is_its_own_and_it_is_tried_again(tmp_path: Path, fault: Exception):
    put(DiskStore.open(tmp_path / "storage"), tmp_path, 200_000)
    store = Faulty.open(tmp_path / "storage")
    bad, good = store.versions()[0].digest, put(store, tmp_path, 300_000)
    master = Says()
    master.manifests = {"bad": store.manifest(bad), "good": good}
    store.faults["verify"] = fault
    with capture_logs() as logs:
        await _meets_a_fault(store, master)
    traced = [line["event"] for line in logs if line.get("exc_info")]
    assert bool(traced) is not isinstance(fault, OSError)
    assert set(traced) <= {"a meeting's check has crashed"}


async def _meets_a_fault(store: Faulty, master: Says) -> None:
    async with meetings_of(store, master) as meetings:
        with trio.fail_after(20):
            await meetings.look()
            await until_current(meetings, "good")
            meeting = meetings.get("bad")
            assert meeting is not None
            while meeting.state is not State.FAILED and meeting.failures == 0:
                await trio.sleep(0.01)
            assert meeting.reason
            store.faults.clear()
            await until_current(meetings, "bad")
        assert meetings.promised() == {name: manifest.digest for name, manifest in master.manifests.items()}


@pytest.mark.parametrize("fault", [RuntimeError("a fault"), OSError(errno.EROFS, "read-only file system")])
async def test_refs_that_cannot_be_written_are_owed_and_the_looks_go_on(tmp_path: Path, fault: Exception):
    store = Faulty.open(tmp_path / "storage")
    manifest = put(store, tmp_path, 200_000)
    master = Says()
    master.manifests = {"a": manifest, "b": manifest}
    async with meetings_of(store, master) as meetings:
        with trio.fail_after(20):
            await meetings.look()
            for meeting_id in ("a", "b"):
                await until_current(meetings, meeting_id)
            store.faults["change_ref"] = fault
            del master.manifests["b"]
            await meetings.look()
            await meetings.look()
            assert meetings.promised() == {"a": manifest.digest}
            assert {ref.meeting_id for ref in store.refs() if ref.in_progress} == {"a", "b"}
            store.faults.clear()
            await meetings.look()
        assert {ref.meeting_id for ref in store.refs() if ref.in_progress} == {"a"}


async def test_a_pin_that_is_set_while_the_node_writes_the_ref_holds(tmp_path: Path):
    store = DiskStore.open(tmp_path / "storage")
    old, new = put(store, tmp_path, 200_000), put(store, tmp_path, 300_000)
    store.set_ref(Ref("m", old.digest, "m"))
    master = Says()
    master.manifests = {"m": new}
    async with meetings_of(store, master) as meetings:
        with DiskStore.open(tmp_path / "storage") as command:  # of which this node notices nothing, so soon
            command.change_ref("m", lambda ref: None if ref is None else replace(ref, pinned=True))
        with trio.fail_after(20):
            await meetings.look()
            await until_current(meetings, "m")
        assert (ref := store.ref("m")) is not None
        assert (ref.digest, ref.pinned) == (new.digest, True)
        del master.manifests["m"]
        with DiskStore.open(tmp_path / "storage") as command:
            command.change_ref("m", lambda ref: None if ref is None else replace(ref, title="another"))
        await meetings.look()
        assert (ref := store.ref("m")) is not None
        assert (ref.pinned, ref.in_progress, ref.title) == (True, False, "another")


class Slowly(Says):
    """A master whose packages come when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go: dict[str, trio.Event] = {}
        self.contents: dict[str, bytes] = {}

    def offers(self, meeting_id: str, package: Path) -> None:
        manifest = split_file(package)
        self.manifests[meeting_id] = manifest
        self.contents[manifest.digest] = package.read_bytes()
        self.let_go.setdefault(manifest.digest, trio.Event())

    async def fetch_range(self, digest: str, start: int, stop: int) -> bytes:
        await self.let_go[digest].wait()
        return self.contents[digest][start:stop]

    @asynccontextmanager
    async def package_range(self, digest: str, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        data = await self.fetch_range(digest, start, stop)

        async def body() -> AsyncIterator[bytes]:
            yield data

        yield body()


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_what_an_ended_meeting_still_fetches_leaves_its_successors_ref_alone(tmp_path: Path, rebuilt: bool):
    store = DiskStore.open(tmp_path / "storage")
    packages = [make_package(tmp_path / f"{n}.zip", make_documents(1, 200_000 + n), level=0).path for n in range(2)]
    master = Slowly()
    async with meetings_of(store, master) as meetings:
        with trio.fail_after(20):
            master.offers("m", packages[0])
            old = master.manifests["m"].digest
            await meetings.look()
            while not meetings.filling():
                await trio.sleep(0.01)
            first = meetings.get("m")
            del master.manifests["m"]
            await meetings.look()
            master.offers("m", packages[rebuilt])
            new = master.manifests["m"].digest
            master.let_go[new].set()
            await meetings.look()
            if rebuilt:
                await until_current(meetings, "m")
                master.let_go[old].set()
            while first is not None and first.tended:
                await trio.sleep(0.01)
            await until_current(meetings, "m")
        ref = store.ref("m")
        assert ref is not None
        assert (ref.digest, ref.in_progress, ref.ended_at) == (new, True, 0.0)


class Streams(Says):
    """A legacy master: no manifests, and packages whose length it does not say."""

    protocol = 0
    token = "t"

    def __init__(self, package: Path) -> None:
        super().__init__()
        self.package_path = package
        self.sent: list[int] = []

    async def look(self) -> Look:
        return Look(self.token, {"m": "m"})

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        raise OriginError("there is no such route", 404)

    @asynccontextmanager
    async def package(self, meeting_id: str) -> AsyncIterator[_Body]:
        self.sent.append(0)
        yield _Body(self)


class _Body:
    size = None

    def __init__(self, master: Streams) -> None:
        self._master = master

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._master.package_path.open("rb") as file:
            while data := file.read(64 << 10):
                self._master.sent[-1] += len(data)
                yield data
                await trio.lowlevel.checkpoint()


# Of a body that is not read to its end the generator is left to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_never_fitted_is_not_streamed_again_until_something_has_changed(tmp_path: Path):
    package = make_package(tmp_path / "p.zip", make_documents(1, 3_000_000), level=0)
    store = DiskStore.open(tmp_path / "storage", max_bytes=1_000_000)
    master = Streams(package.path)

    async def until_checked(meetings: Meetings, meeting: Meeting, times: int) -> None:
        for _ in range(times):
            before = meeting.checked_at
            meetings.want(meeting, Check.CERTAIN)
            while meeting.checked_at == before:
                await trio.sleep(0.01)
            assert isinstance(meeting.lacks, NeverFits)

    async with meetings_of(store, master, Evictor(store).make_room) as meetings:
        with trio.fail_after(30):
            await meetings.look()
            meeting = meetings.get("m")
            assert meeting is not None
            await until_checked(meetings, meeting, 3)
            assert len(master.sent) == 1
            assert 900_000 < master.sent[0] < 1_500_000
            master.token = "u"  # which may mean that it was built anew, and smaller
            await meetings.look()
            await until_checked(meetings, meeting, 3)
            assert len(master.sent) == 2
            store.set_limits(max_bytes=4_000_000, min_free_bytes=0)
            meetings.want(meeting, Check.CERTAIN)
            await until_current(meetings, "m")
        assert master.sent[2:] == [package.path.stat().st_size]


async def test_a_disk_that_takes_no_more_writes_ends_nothing(tmp_path: Path):
    store = Faulty.open(tmp_path / "storage")
    manifest = put(store, tmp_path, 200_000)
    broken = OSError(errno.EIO, "no block comes back")
    store.faults = dict.fromkeys(("verify", "repair", "remove", "usage"), broken)
    lost: list[Digest] = []
    healer = Healer(store, Says(), lost.append)  # type: ignore[arg-type]
    with store._layout.package(manifest.digest).open("r+b") as file:
        file.write(b"?")
    assert not await healer.ensure(manifest.digest)
    assert (lost, store.holds(manifest.digest)) == ([manifest.digest], True)
    await Evictor(store).keep_low()
    store.close()


async def test_a_manifest_that_is_made_anew_during_a_repair_is_looked_at_again(tmp_path: Path):
    store = Faulty.open(tmp_path / "storage")
    master = Slowly()
    package = make_package(tmp_path / "p.zip", make_documents(1, 200_000), level=0).path
    master.offers("m", package)
    manifest = master.manifests["m"]
    master.let_go[manifest.digest].set()
    put(store, tmp_path, 200_000)
    with store._layout.package(manifest.digest).open("r+b") as file:
        file.seek(1000)
        file.write(b"?")
    store.faults["repair"] = ValueError("no piece of it")
    store.once = True
    assert await Healer(store, master).ensure(manifest.digest)  # type: ignore[arg-type]
    store.close()
