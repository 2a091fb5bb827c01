"""The answer of `/api/status`: the deployed node's fields, followed by ours."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from store import NeverFits

from ..meetings.states import MeetingState
from ..settings import peers_believed

MASTER_NAME = "master"
"""The name of the master among the senders."""

if TYPE_CHECKING:
    from collections.abc import Mapping

    from store import Digest, NoSpace, Store

    from ..fetch.live_fill import LiveFill
    from ..meetings.meeting import Meeting
    from ..node import Node


async def status_of(node: Node) -> dict[str, object]:
    """Return the status of a node, ready for JSON. Sizes are bytes, times ISO 8601 in UTC. Raises `NodeStopped`."""
    services, settings = node.services, node.live_settings.current
    host, _, port = services.own.registration.address.rpartition(":")
    usage = await trio.to_thread.run_sync(services.store.usage)
    meetings = services.meetings.in_progress()
    sizes = {version.digest: version.size for version in services.store.versions()}
    downloads = services.downloads
    return {
        "node_id": node.node_id,
        "running": True,
        "connected": services.heartbeat.connected,
        "conflict": services.heartbeat.conflict,
        "main_server": settings.main_server,
        "node_ip": host,
        "node_port": int(port),
        "address_problem": services.own.problem,
        "start_time": _iso(node.started_at),
        "last_sync": _iso(services.poller.answered_at),
        "sync_status": sync_status(meetings, services.poller.error),
        "active_meetings": [_meeting_status(services.store, meeting, sizes) for meeting in meetings],
        "meeting_count": len(meetings),
        "storage_usage": usage.stored + usage.filling,
        "storage_free": usage.free,
        "storage_limit": usage.limit,
        "versions": len(sizes),
        "master_protocol": services.master.protocol,
        "peers": settings.peers,
        "peers_believed": peers_believed(settings),
        "bytes_fetched": services.master.bytes_fetched,
        "bytes_fetched_from_peers": services.peers.stats.bytes_fetched,
        "bytes_sent": downloads.bytes_sent,
        "bytes_sent_to_peers": downloads.bytes_sent_to_peers,
        "active_downloads": downloads.active,
        "queued_downloads": downloads.queued,
        "max_downloads": downloads.limit,
        "downloads_finished": downloads.finished,
        "downloads_broken_off": downloads.broken_off,
        "versions_evicted": services.evictor.evicted,
        "sending": dict(downloads.sending),
        "health": asdict(services.repairer.stats),
    }


def sync_status(meetings: list[Meeting], poll_error: str) -> str:
    """Return the state of the sync in the deployed node's words: web pages search it for 失败 and 出错."""
    if poll_error:
        return f"同步失败: {poll_error}"
    failed = [meeting for meeting in meetings if meeting.state is MeetingState.FAILED]
    if failed:
        return f"同步出错: {failed[0].title or failed[0].id}: {failed[0].reason}"
    return "同步成功" if all(meeting.state is MeetingState.CURRENT for meeting in meetings) else "同步中"


def _meeting_status(store: Store, meeting: Meeting, sizes: Mapping[Digest, int]) -> dict[str, object]:
    ref = store.ref(meeting.id)
    return {
        "id": meeting.id,
        "title": meeting.title,
        "sync_time": _iso(ref.switched_at if ref is not None else 0.0),
        "size": sizes.get(ref.digest, 0) if ref is not None else 0,
        "file_count": meeting.file_count,
        "status": "synced" if meeting.state is MeetingState.CURRENT else "active",
        "state": meeting.state.value,
        "checking": meeting.checking or meeting.pending_check is not None,
        "reason": meeting.reason,
        "lacks_room": _lacks_room(meeting.lacks_room),
        "version": ref.digest if ref is not None else None,
        "fill": None if meeting.fill is None else fill_status(meeting.fill, trio.current_time()),
        "fetched_from": _by_sender(meeting.fetched),
    }


def fill_status(fill: LiveFill, now: float) -> dict[str, object]:
    """Return the source, the progress and the mean rate of a fill. "master" and the ids of nodes name sources."""
    rate = fill.fetched.total() / max(now - fill.began_at, 1e-3)
    return {
        "source": fill.source or MASTER_NAME,
        "filled": fill.filled,
        "size": fill.size,
        "fetched": _by_sender(fill.fetched),
        "bytes_per_second": round(rate),
        "seconds_left": round(max(0, fill.size - fill.filled) / rate, 1) if fill.size is not None and rate else None,
    }


def _by_sender(fetched: Mapping[str, int]) -> dict[str, int]:
    return {source or MASTER_NAME: count for source, count in fetched.items()}


def _lacks_room(lacks: NoSpace | None) -> dict[str, object] | None:
    """Return the missing room in bytes, and whether the package can never fit."""
    if lacks is None:
        return None
    return {"never_fits": isinstance(lacks, NeverFits), "needed": lacks.needed, "available": lacks.available}


def _iso(at: float) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at else None
