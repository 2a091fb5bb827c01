"""The resources and services of a running node: opened in order, complete when constructed, closed in reverse."""

from __future__ import annotations

import time
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import structlog
import trio

from store import StorageLock, Store, node_id

from .delivery.admission import Downloads
from .delivery.peers import PeerRequests
from .delivery.repr_digest import ReprDigests
from .delivery.resolve import Resolver
from .delivery.service import Delivery
from .delivery.tickets import Tickets
from .errors import StorageUnusable
from .events import AutoResetEvent
from .fetch.source_factory import Peers
from .heartbeat.address import ReportedAddress
from .heartbeat.builder import HeartbeatBuilder
from .heartbeat.sender import HeartbeatSender
from .heartbeat.sleep_watch import watch_sleep
from .master.client import Master
from .master.transport import FetchPace
from .meetings.poller import Poller
from .meetings.service import Meetings
from .peers.client import PeerClient
from .peers.directory import Directory
from .stats import PeerStats
from .upkeep.eviction import Evictor
from .upkeep.folder_watch import FolderWatch
from .upkeep.repair import Repairer
from .upkeep.scrub import Scrubber, ScrubTimes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from .lifecycle import Lifecycle
    from .live_settings import LiveSettings
    from .settings import Settings

CLOSE_SECONDS = 2.0
"""Time limit for closing the connections to the master."""

ENDING_POLL_SECONDS = 0.1
"""Interval at which the lock of a node that is ending is tried."""

_log = structlog.get_logger("trionode.node")


@dataclass(frozen=True, slots=True)
class Services:
    """The services of a running node. `tasks` are their endless tasks by name."""

    own: ReportedAddress
    lock: StorageLock
    store: Store
    master: Master
    peers: Peers
    downloads: Downloads
    delivery: Delivery
    evictor: Evictor
    repairer: Repairer
    meetings: Meetings
    poller: Poller
    heartbeat: HeartbeatSender
    tasks: Mapping[str, Callable[[], Awaitable[None]]]


@asynccontextmanager
async def open_services(live: LiveSettings, lifecycle: Lifecycle) -> AsyncIterator[Services]:
    """Open the storage and the client for the master, and build the services on them.

    Raises `StorageTaken`, `UnknownFormat`, `NodeFileDamaged`, `StorageUnusable`, `SettingError`.
    """
    settings = live.current
    await trio.to_thread.run_sync(wait_for_ending_node, settings.storage_path, abandon_on_cancel=True)
    with ExitStack() as stack:
        try:
            name = settings.node_id or await trio.to_thread.run_sync(node_id, settings.storage_path)
            # Before the store: opening it removes leftovers, which must not happen while another node has it open.
            lock = stack.enter_context(StorageLock(settings.storage_path))
            own = ReportedAddress(name, settings)
            await own.find()
            await trio.to_thread.run_sync(lock.acquire, own.registration.address, name)
            store = stack.enter_context(await trio.to_thread.run_sync(_open_store, settings))
            times = await trio.to_thread.run_sync(ScrubTimes, settings.storage_path / "scrub.json")
        except OSError as error:
            raise StorageUnusable(settings.storage_path, error) from error
        pace = FetchPace()
        stack.enter_context(live.subscribed(pace.configure))
        master = Master(settings.main_server, settings.ca_file, pace)
        peers = _peers(name, master, settings, pace)
        try:
            yield _build(own, lock, store, master, peers, times, live, lifecycle, stack)
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await master.aclose()
                await peers.client.aclose()


def wait_for_ending_node(storage: Path) -> None:
    """Wait while a node on the storage folder is ending. Blocks.

    Raises `StorageTaken` if it takes longer than it has set itself.
    """
    lock, started = StorageLock(storage), time.monotonic()
    ends_within: float | None = None
    while True:
        try:
            holder = lock.find_holder()
        except OSError:
            return  # a new folder, or one that cannot be used: opening it explains that
        if holder is None or (holder.ends_within is None and ends_within is None):
            return
        if ends_within is None:
            ends_within = holder.ends_within or 0.0
            _log.info(
                "the last node on this storage folder is ending; waiting for it",
                address=holder.address,
                pid=holder.pid,
                at_most=ends_within,
            )
        if time.monotonic() - started > ends_within:
            raise holder
        time.sleep(ENDING_POLL_SECONDS)


def _open_store(settings: Settings) -> Store:
    return Store.open(settings.storage_path, max_bytes=settings.max_bytes, min_free_bytes=settings.min_free_bytes)


def _peers(node_id: str, master: Master, settings: Settings, pace: FetchPace) -> Peers:
    stats = PeerStats()
    client = PeerClient(node_id, stats, settings.ca_file, pace)
    return Peers(node_id, client, Directory(node_id, master, client, enabled=settings.peers == "auto"), stats)


def _build(
    own: ReportedAddress,
    lock: StorageLock,
    store: Store,
    master: Master,
    peers: Peers,
    times: ScrubTimes,
    live: LiveSettings,
    lifecycle: Lifecycle,
    subscriptions: ExitStack,
) -> Services:
    """Build the services, and subscribe those that have live settings until `subscriptions` is closed."""
    settings = live.current
    rng = Random()  # noqa: S311 - for jitter, not for security
    beat_due = AutoResetEvent()
    downloads = Downloads(on_full=beat_due.set)
    folder = FolderWatch(store)
    evictor = Evictor(store, folder)
    repairer = Repairer(store, master)
    meetings = Meetings(store, master, rng, evictor.make_room, folder, repairer, beat_due, peers)
    poller = Poller(master, meetings, settings.sync_interval, rng)
    tickets = Tickets()
    builder = HeartbeatBuilder(own, meetings, downloads, tickets, lifecycle)
    heartbeat = HeartbeatSender(own, builder, master, meetings, poller, tickets, beat_due, rng)
    rate = settings.scrub_bytes_per_second
    scrubber = Scrubber(store, repairer, times, rate, lambda: meetings.advertised().values())
    peer_requests = PeerRequests(peers.node_id, enabled=settings.peers == "auto")
    delivery = Delivery(Resolver(store, meetings, poller, repairer), downloads, ReprDigests(), tickets, peer_requests)
    for subscriber in (
        downloads.configure,
        evictor.configure,
        _limits_of(store),
        lambda _: meetings.retry(lambda meeting: meeting.lacks_room is not None),  # after the limits have changed
    ):
        subscriptions.enter_context(live.subscribed(subscriber))
    tasks: dict[str, Callable[[], Awaitable[None]]] = {
        "folder watch": folder.run,
        "meetings": meetings.run,
        "poller": poller.run,
        "heartbeat": heartbeat.run,
        "eviction": evictor.run,
        "scrub": scrubber.run,
        "sleep watch": partial(watch_sleep, partial(_ask_at_once, master, peers, poller, beat_due)),
    }
    return Services(
        own, lock, store, master, peers, downloads, delivery, evictor, repairer, meetings, poller, heartbeat, tasks
    )


async def _ask_at_once(master: Master, peers: Peers, poller: Poller, beat_due: AutoResetEvent) -> None:
    """After the machine has slept: poll and send a heartbeat, over new connections."""
    await master.renew()
    await peers.client.renew()
    poller.request()
    beat_due.set()


def _limits_of(store: Store) -> Callable[[Settings], None]:
    def configure(settings: Settings) -> None:
        store.set_limits(max_bytes=settings.max_bytes, min_free_bytes=settings.min_free_bytes)

    return configure
