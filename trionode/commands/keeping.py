"""`trionode pin`, `unpin`, `evict` and `gc`: what stays and what goes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.filesize import decimal

from store import NoSpace, plan_eviction
from store.space import RETIRED_SECONDS

from ..errors import CommandFailed
from .storage import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    SHORT,
    AsJson,
    Config,
    StoragePath,
    complain,
    find,
    open_storage,
    print_json,
    settings_of,
    size_of,
)

if TYPE_CHECKING:
    from store import Digest, DiskStore, Ref

    from ..config import Settings
    from .storage import Found


def pin(meeting: str, *, storage_path: StoragePath = None, config: Config = None, as_json: AsJson = False) -> int:
    """Keep a meeting's version whatever happens, until it is unpinned.

    Parameters
    ----------
    meeting
        The id of a meeting, or a version (the first digits will do): then every meeting that has it.
    """
    return _set_pin(meeting, storage_path, config, pinned=True, as_json=as_json)


def unpin(meeting: str, *, storage_path: StoragePath = None, config: Config = None, as_json: AsJson = False) -> int:
    """Let a meeting's version go again when its space is needed.

    Parameters
    ----------
    meeting
        The id of a meeting, or a version (the first digits will do): then every meeting that has it.
    """
    return _set_pin(meeting, storage_path, config, pinned=False, as_json=as_json)


def _set_pin(word: str, storage_path: StoragePath, config: Config, *, pinned: bool, as_json: bool) -> int:
    with open_storage(settings_of(storage_path, config)) as store:
        found = find(store, word)
        if not found.refs:
            raise CommandFailed(
                f"no meeting has version {found.digest[:SHORT]}, so there is nothing to pin it by; "
                "trionode import gives it one",
                EXIT_USAGE,
            )
        for ref in found.refs:
            if ref.pinned != pinned:
                # Of the ref as it is by now: a running node may just be switching it.
                store.change_ref(ref.meeting_id, lambda now: None if now is None else replace(now, pinned=pinned))
    meetings = [ref.meeting_id for ref in found.refs]
    if as_json:
        print_json({"version": found.digest, "meetings": meetings, "pinned": pinned})
    else:
        print(f"{', '.join(meetings)}: version {found.digest[:SHORT]} is {'pinned' if pinned else 'no longer pinned'}")
    return EXIT_OK


def evict(
    what: str,
    *,
    force: Annotated[bool, Parameter(negative="")] = False,
    storage_path: StoragePath = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Remove a version, or forget a meeting and remove its version unless another meeting has it, too.

    What is being sent is sent to its end. A running node fetches again what is in progress.

    Parameters
    ----------
    what
        The id of a meeting, or a version (the first digits will do).
    force
        Also what is pinned or in progress.
    """
    with open_storage(settings_of(storage_path, config)) as store:
        found = find(store, what)
        kept = next((ref for ref in found.refs if ref.pinned or ref.in_progress), None)
        if kept is not None and not force:
            why = "pinned" if kept.pinned else "in progress"
            raise CommandFailed(f"meeting {kept.meeting_id} is {why}; with --force it goes all the same", EXIT_FAILED)
        freed = _evict(store, found)
    meetings = [ref.meeting_id for ref in found.refs]
    if as_json:
        print_json({"version": found.digest, "meetings": meetings, "removed": freed > 0, "freed": freed})
    elif freed:
        print(f"version {found.digest[:SHORT]} removed, {decimal(freed)} freed")
    else:
        print(f"meeting {meetings[0]} forgotten; its version {found.digest[:SHORT]} stays, another meeting has it")
    return EXIT_OK


def _evict(store: DiskStore, found: Found) -> int:
    """Remove what was found; return the bytes that are freed, 0 when the version stays."""
    named = {ref.meeting_id for ref in store.refs() if ref.digest == found.digest}
    if found.by_meeting and len(named) > 1:
        store.drop_ref(found.refs[0].meeting_id)
        return 0
    size = size_of(store, found.digest)
    store.remove(found.digest)
    return size


def gc(
    *,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    storage_path: StoragePath = None,
    max_bytes: str | None = None,
    min_free_bytes: str | None = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Remove versions that no meeting has any more, and what must go for the limits of the settings.

    A version that a meeting has left stays 10 minutes: tablets may be on their way to it. Pinned versions, meetings
    in progress and those that ended within the hour stay. Status 1: the limits cannot be kept.

    Parameters
    ----------
    dry_run
        Only say what would go.
    max_bytes
        What the storage may hold, such as 50G; 0 for no limit. [TRIONODE_MAX_BYTES, default 0]
    min_free_bytes
        What stays free on the disk, such as 2G. [TRIONODE_MIN_FREE_BYTES, default 0]
    """
    settings = settings_of(storage_path, config, max_bytes=max_bytes, min_free_bytes=min_free_bytes)
    with open_storage(settings) as store:
        plan, problem = _plan_gc(store, settings, time.time())
        sizes = {version.digest: version.size for version in store.versions()}
        if not dry_run:
            for digest in plan:
                store.remove(digest)
    freed = sum(sizes[digest] for digest in plan)
    if as_json:
        removed = [{"digest": digest, "size": sizes[digest], "why": why} for digest, why in plan.items()]
        print_json({"dry_run": dry_run, "removed": removed, "freed": freed, "problem": problem or None})
    else:
        for digest, why in plan.items():
            print(f"{digest[:SHORT]}  {decimal(sizes[digest]):>10}  {why}")
        print(f"{len(plan)} versions {'would go' if dry_run else 'removed'}, {decimal(freed)} freed")
    if problem:
        complain(problem)
        return EXIT_FAILED
    return EXIT_OK


def _plan_gc(store: DiskStore, settings: Settings, now: float) -> tuple[dict[Digest, str], str]:
    """Return what goes, with the reason for each, and what is in the way of the limits, or ""."""
    refs: tuple[Ref, ...] = tuple(store.refs())
    named = {ref.digest for ref in refs}
    versions = store.versions()
    unnamed = [v for v in versions if v.digest not in named and now - v.last_used >= RETIRED_SECONDS]
    plan = {version.digest: "no meeting has it" for version in unnamed}
    freed = sum(version.size for version in unnamed)
    usage = store.usage()
    after = replace(usage, stored=usage.stored - freed, free=usage.free + freed)
    left = [version for version in versions if version.digest not in plan]
    try:
        more = plan_eviction(left, refs, after, 0, now, keep_free=settings.min_free_bytes)
    except NoSpace:
        return plan, "the storage is over its limits, and all that is left is pinned, in progress or just ended"
    return {**plan, **dict.fromkeys(more, "over the limits")}, ""
