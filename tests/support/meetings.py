"""The meetings of a node without the node, against masters that a test controls."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import trio

from store import split_file
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually
from trionode.errors import OriginUnreachable
from trionode.events import AutoResetEvent
from trionode.master.responses import MeetingList
from trionode.meetings.poller import Poller
from trionode.meetings.service import Meetings
from trionode.meetings.states import MeetingState
from trionode.upkeep.folder_watch import FolderWatch
from trionode.upkeep.repair import Repairer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from store import Digest, Manifest, Store
    from trionode.fetch.room import MakeRoom

SILENCE_SECONDS = 0.5
"""Time limit of a call to a silent master, instead of `client.CALL_SECONDS`."""


class ScriptedMaster:
    """A master with the shim: the meetings of `manifests` are in progress. Calls time out while it is `silent`."""

    protocol = 1

    def __init__(self) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.silent = False
        self.polls = 0

    async def poll(self) -> MeetingList:
        self.polls += 1
        if self.silent:
            await trio.sleep(SILENCE_SECONDS)
            raise OriginUnreachable("it is silent")
        return MeetingList("t", {meeting_id: meeting_id for meeting_id in self.manifests})

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        await trio.lowlevel.checkpoint()
        found = self.manifests[meeting_id]
        return None if found.digest == known else found


class HoldingMaster(ScriptedMaster):
    """A master that sends a package only after `let_go`."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go: dict[str, trio.Event] = {}
        """Events by digest: once set, the package is sent."""
        self._contents: dict[str, bytes] = {}

    def offer(self, meeting_id: str, package: Path) -> Manifest:
        """Start a meeting with this package, or replace its package."""
        manifest = split_file(package)
        self.manifests[meeting_id] = manifest
        self._contents[manifest.digest] = package.read_bytes()
        self.let_go.setdefault(manifest.digest, trio.Event())
        return manifest

    async def fetch_range(self, digest: str, start: int, stop: int) -> bytes:
        await self.let_go[digest].wait()
        return self._contents[digest][start:stop]

    @asynccontextmanager
    async def package_range(self, digest: str, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        data = await self.fetch_range(digest, start, stop)

        async def body() -> AsyncIterator[bytes]:
            yield data

        yield body()


class UnchangedFolder:
    """A folder watch of a storage that no other process changes."""

    def subscribe(self, subscriber: Callable[[], None]) -> None:
        pass

    async def refresh(self) -> None:
        await trio.lowlevel.checkpoint()


async def no_room(needed: int, *, full_disk: bool = False) -> None:
    raise AssertionError("there is room")


def put(store: Store, tmp_path: Path, size: int) -> Manifest:
    """Store a package with one document of `size` bytes."""
    package = make_package(tmp_path / f"{size}.zip", make_documents(1, size), level=0)
    manifest = split_file(package.path)
    content = package.path.read_bytes()
    fill = store.begin_fill(manifest)
    for chunk in fill.missing():
        fill.write(chunk, content[chunk.offset : chunk.offset + chunk.size])
    fill.commit()
    fill.close()
    return manifest


@dataclass(frozen=True)
class Running:
    """Meetings whose checks run, while the test makes the polls."""

    store: Store
    meetings: Meetings
    poller: Poller
    repairer: Repairer

    async def until_current(self, meeting_id: str) -> None:
        def is_current() -> bool:
            meeting = self.meetings.get(meeting_id)
            return meeting is not None and meeting.state is MeetingState.CURRENT

        await eventually(is_current, what=f"{meeting_id} is current")


@asynccontextmanager
async def running_meetings(
    store: Store, master: ScriptedMaster, make_room: MakeRoom = no_room
) -> AsyncIterator[Running]:
    """Run the checks of meetings; close the store at the end."""
    rng = Random(1)
    repairer = Repairer(store, master)  # type: ignore[arg-type]
    meetings = Meetings(store, master, rng, make_room, FolderWatch(store), repairer, AutoResetEvent())  # type: ignore[arg-type]
    poller = Poller(master, meetings, 300.0, rng)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meetings.run)
        yield Running(store, meetings, poller, repairer)
        nursery.cancel_scope.cancel()
    store.close()
