"""What `/api/status` says: the deployed node's fields, and after them ours."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from store import NeverFits

from .sync.plan import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from store import Digest, NoSpace

    from .node import Node
    from .sync.meetings import Meeting


async def status_of(node: Node) -> dict[str, object]:
    """Return the status of a running node, ready for JSON. Sizes are bytes, times ISO 8601 in UTC."""
    host, _, port = node.settings.node_address.rpartition(":")
    usage = await trio.to_thread.run_sync(node.store.usage)
    meetings = node.meetings.in_progress()
    sizes = {version.digest: version.size for version in node.store.versions()}
    downloads, counts = node.downloads, node.team.facts().counts
    return {
        "node_id": node.node_id,
        "running": True,
        "connected": node.pulse.connected,
        "main_server": node.settings.main_server,
        "node_ip": host,
        "node_port": int(port),
        "start_time": _iso(node.started_at),
        "last_sync": _iso(node.meetings.last_look),
        "sync_status": sync_status(meetings, node.meetings.look_error),
        "active_meetings": [_meeting_status(node, meeting, sizes) for meeting in meetings],
        "meeting_count": len(meetings),
        "storage_usage": usage.stored + usage.filling,
        "storage_free": usage.free,
        "storage_limit": usage.limit,
        "versions": len(sizes),
        "master_protocol": node.master.protocol,
        "bytes_fetched": sum(counts.bytes_fetched.values()),
        "bytes_sent": counts.bytes_sent,
        "active_downloads": counts.active,
        "queued_downloads": counts.queued,
        "workers": node.team.facts().workers,
        "max_downloads": downloads.limit,
        "downloads_finished": counts.finished,
        "downloads_broken_off": counts.broken_off,
        "versions_evicted": node.evictor.evicted,
        "sending": dict(downloads.sending),
        "health": asdict(node.meetings.healer.health),
    }


def sync_status(meetings: list[Meeting], look_error: str) -> str:
    """Say how the sync stands, in the deployed node's words: web pages look for 失败 and 出错 in them."""
    if look_error:
        return f"同步失败: {look_error}"
    failed = [meeting for meeting in meetings if meeting.state is State.FAILED]
    if failed:
        return f"同步出错: {failed[0].title or failed[0].id}: {failed[0].reason}"
    return "同步成功" if all(meeting.state is State.CURRENT for meeting in meetings) else "同步中"


def _meeting_status(node: Node, meeting: Meeting, sizes: Mapping[Digest, int]) -> dict[str, object]:
    ref = node.store.ref(meeting.id)
    return {
        "id": meeting.id,
        "title": meeting.title,
        "sync_time": _iso(ref.switched_at if ref is not None else 0.0),
        "size": sizes.get(ref.digest, 0) if ref is not None else 0,
        "file_count": meeting.file_count,
        "status": "synced" if meeting.state is State.CURRENT else "active",
        "state": meeting.state.value,
        "reason": meeting.reason,
        "lacks_room": _lack(meeting.lacks),
        "version": ref.digest if ref is not None else None,
    }


def _lack(lacks: NoSpace | None) -> dict[str, object] | None:
    """Tell a package that can never fit from one that has no room now, in bytes."""
    if lacks is None:
        return None
    return {"never_fits": isinstance(lacks, NeverFits), "needed": lacks.needed, "available": lacks.available}


def _iso(at: float) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at else None
