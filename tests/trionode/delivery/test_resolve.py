"""What a request is answered from, while the master answers and while it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from store import Ref, Store
from tests.support.meetings import HoldingMaster, Running, ScriptedMaster, put, running_meetings
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually
from trionode.delivery.resolve import Resolver
from trionode.delivery.verified_lease import VerifiedLease
from trionode.errors import MeetingUnknown, VersionGone
from trionode.fetch.live_fill import LiveFill

if TYPE_CHECKING:
    from pathlib import Path

    from store import Digest


def resolver_of(running: Running) -> Resolver:
    return Resolver(running.store, running.meetings, running.poller, running.repairer)


async def test_stored_packages_are_served_while_the_master_does_not_answer_after_one_poll_for_all(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    manifest = put(store, tmp_path, 200_000)
    store.set_ref(Ref("m", manifest.digest, "m"))
    master = ScriptedMaster()
    master.silent = True
    versions: list[Digest] = []

    async def request(resolver: Resolver) -> None:
        source = await resolver.resolve("m", None)
        assert isinstance(source, VerifiedLease)
        versions.append(source.digest)
        source.close()

    async with running_meetings(store, master) as running:
        resolver = resolver_of(running)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(request, resolver)
        assert (versions, master.polls) == ([manifest.digest] * 20, 1)


async def test_a_current_version_is_found_without_waiting_and_another_one_is_not(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    manifest, other = put(store, tmp_path, 200_000), put(store, tmp_path, 300_000)
    master = ScriptedMaster()
    master.manifests = {"m": manifest}
    async with running_meetings(store, master) as running:
        resolver = resolver_of(running)
        assert resolver.resolve_now("m", None) is None, "it is not known yet which version is current"
        await running.poller.poll()
        await running.until_current("m")
        for version, digest in ((None, manifest.digest), (manifest.digest, manifest.digest), (other.digest,) * 2):
            lease = resolver.resolve_now("m", version)
            assert lease is not None
            assert lease.digest == digest
            lease.close()
        assert resolver.resolve_now("unknown", None) is None


async def test_a_package_that_is_being_fetched_is_followed(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    master = HoldingMaster()
    manifest = master.offer("m", make_package(tmp_path / "p.zip", make_documents(1, 200_000), level=0).path)
    async with running_meetings(store, master) as running:
        resolver = resolver_of(running)
        await running.poller.poll()
        await eventually(running.meetings.fills)
        for version in (None, manifest.digest):
            source = await resolver.resolve("m", version)
            assert isinstance(source, LiveFill)
            assert source.digest == manifest.digest
        master.let_go[manifest.digest].set()
        await running.until_current("m")
        source = await resolver.resolve("m", None)
        assert isinstance(source, VerifiedLease)
        source.close()


async def test_a_meeting_that_has_ended_is_served_from_its_stored_version(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    manifest = put(store, tmp_path, 200_000)
    store.set_ref(Ref("m", manifest.digest, "m", in_progress=False, ended_at=1.0))
    async with running_meetings(store, ScriptedMaster()) as running:
        source = await resolver_of(running).resolve("m", None)
        assert isinstance(source, VerifiedLease)
        source.close()


async def test_unknown_meetings_and_versions_are_refused_and_cost_the_master_one_poll(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    manifest = put(store, tmp_path, 200_000)
    store.remove(manifest.digest)
    master = ScriptedMaster()
    refused: list[type[Exception]] = []

    async def request(resolver: Resolver, number: int, version: Digest | None) -> None:
        try:
            await resolver.resolve(f"unknown-{number}", version)
        except (MeetingUnknown, VersionGone) as error:
            refused.append(type(error))

    async with running_meetings(store, master) as running:
        resolver = resolver_of(running)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(request, resolver, number, manifest.digest if number % 2 else None)
        assert sorted(refused, key=str) == [MeetingUnknown] * 10 + [VersionGone] * 10
        assert master.polls == 1


async def test_a_meeting_that_begins_after_the_last_poll_is_not_called_unknown(tmp_path: Path):
    store = Store.open(tmp_path / "storage")
    manifest = put(store, tmp_path, 200_000)
    old = put(store, tmp_path, 300_000)
    store.set_ref(Ref("m", old.digest, "m", in_progress=False, ended_at=1.0))
    master = ScriptedMaster()
    async with running_meetings(store, master) as running:
        resolver = resolver_of(running)
        with pytest.raises(MeetingUnknown):
            await resolver.resolve("new", None)
        master.manifests = {"new": manifest, "m": manifest}
        for meeting_id in ("new", "m"):
            source = await resolver.resolve(meeting_id, None)
            assert isinstance(source, VerifiedLease)
            assert source.digest == manifest.digest
            source.close()
        assert master.polls == 2
