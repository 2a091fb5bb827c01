"""The refs on disk: written while meetings begin, end and switch, and while commands change them."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from structlog.testing import capture_logs

from store import Ref, Store
from tests.support.meetings import HoldingMaster, ScriptedMaster, UnchangedFolder, put, running_meetings
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually
from trionode.meetings.refs import RefWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class SlowRefs(Store):
    """A store in which the first change of the meeting a's ref takes until b has been switched, or half a second."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.switched = threading.Event()
        self.slow = False

    def change_ref(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        if self.slow and meeting_id == "a":
            self.slow = False
            self.switched.wait(0.5)
        return super().change_ref(meeting_id, change)


async def test_a_switch_is_not_undone_by_writing_which_meetings_are_in_progress(tmp_path: Path):
    store = SlowRefs.open(tmp_path / "storage")
    old, new = put(store, tmp_path, 200_000), put(store, tmp_path, 300_000)
    for meeting_id in ("a", "b"):
        store.set_ref(Ref(meeting_id, old.digest, meeting_id, in_progress=False, ended_at=1.0))
    master = ScriptedMaster()
    master.manifests = {"a": old, "b": new}
    async with running_meetings(store, master) as running:
        store.slow = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.poller.poll)
            await running.until_current("b")
            store.switched.set()
        await running.until_current("a")
        assert running.meetings.advertised() == {"a": old.digest, "b": new.digest}
        assert all(ref.in_progress for ref in store.refs())


class FaultyRefs(Store):
    """A store that cannot write refs while there is a `fault`."""

    fault: Exception | None = None

    def change_ref(self, meeting_id: str, change: Callable[[Ref | None], Ref | None]) -> Ref | None:
        if self.fault is not None:
            raise self.fault
        return super().change_ref(meeting_id, change)


@pytest.mark.parametrize("fault", [RuntimeError("a fault"), OSError(errno.EROFS, "read-only file system")])
async def test_refs_that_cannot_be_written_stay_pending_and_polls_continue(tmp_path: Path, fault: Exception):
    store = FaultyRefs.open(tmp_path / "storage")
    manifest = put(store, tmp_path, 200_000)
    master = ScriptedMaster()
    master.manifests = {"a": manifest, "b": manifest}
    async with running_meetings(store, master) as running:
        await running.poller.poll()
        for meeting_id in ("a", "b"):
            await running.until_current(meeting_id)
        store.fault = fault
        del master.manifests["b"]
        with capture_logs() as lines:
            await running.poller.poll()
            await running.poller.poll()
        (line,) = (line for line in lines if line["event"] == "the refs cannot be updated now")
        assert line["why"] == str(fault)
        assert (line["exc_info"] is None) == isinstance(fault, OSError)  # a traceback is for a bug only
        assert running.meetings.advertised() == {"a": manifest.digest}
        assert {ref.meeting_id for ref in store.refs() if ref.in_progress} == {"a", "b"}
        store.fault = None
        await running.poller.poll()
        assert {ref.meeting_id for ref in store.refs() if ref.in_progress} == {"a"}


async def test_a_pin_that_is_set_while_the_node_writes_the_ref_is_kept(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    old, new = put(store, tmp_path, 200_000), put(store, tmp_path, 300_000)
    store.set_ref(Ref("m", old.digest, "m"))
    master = ScriptedMaster()
    master.manifests = {"m": new}
    async with running_meetings(store, master) as running:
        with Store.open(tmp_path / "storage") as command:  # another process, which the node has not noticed yet
            command.change_ref("m", lambda ref: None if ref is None else replace(ref, pinned=True))
        await running.poller.poll()
        await running.until_current("m")
        assert (ref := store.ref("m")) is not None
        assert (ref.digest, ref.pinned) == (new.digest, True)
        del master.manifests["m"]
        with Store.open(tmp_path / "storage") as command:
            command.change_ref("m", lambda ref: None if ref is None else replace(ref, title="another"))
        await running.poller.poll()
        assert (ref := store.ref("m")) is not None
        assert (ref.pinned, ref.in_progress, ref.title) == (True, False, "another")


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_the_fill_of_an_ended_meeting_does_not_change_the_ref_of_its_successor(tmp_path: Path, rebuilt: bool):
    store = Store.open(tmp_path / "storage")
    packages = [make_package(tmp_path / f"{n}.zip", make_documents(1, 200_000 + n), level=0).path for n in range(2)]
    master = HoldingMaster()
    async with running_meetings(store, master) as running:
        meetings, poll = running.meetings, running.poller.poll
        old = master.offer("m", packages[0]).digest
        await poll()
        await eventually(meetings.fills)
        first = meetings.get("m")
        assert first is not None
        del master.manifests["m"]
        await poll()
        new = master.offer("m", packages[rebuilt]).digest
        master.let_go[new].set()
        await poll()
        if rebuilt:
            await running.until_current("m")
            master.let_go[old].set()
        await eventually(lambda: not first.has_task)
        await running.until_current("m")
        ref = store.ref("m")
        assert ref is not None
        assert (ref.digest, ref.in_progress, ref.ended_at) == (new, True, 0.0)


async def test_refs_stay_pending_when_writing_them_is_cancelled(tmp_path: Path):
    """As by a request whose client disconnects while it polls."""
    with Store.open(tmp_path / "storage") as store:
        store.set_ref(Ref("a", put(store, tmp_path, 200_000).digest, "a", in_progress=True))
        writer = RefWriter(store, {}, UnchangedFolder())
        writer.mark_pending()
        with trio.move_on_after(0):
            await writer.write_pending()
        assert store.ref("a").in_progress
        await writer.write_pending()
        assert not store.ref("a").in_progress
