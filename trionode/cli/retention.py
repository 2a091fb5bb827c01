"""`trionode pin`, `unpin`, `evict` and `gc`: retention of stored versions."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.filesize import decimal

from store import NoSpace, age_of, plan_eviction
from store.eviction import RETIRED_SECONDS

from ..errors import CommandFailed
from . import exits
from .output import print_json
from .storage import (
    SHORT,
    AsJson,
    Config,
    StoragePath,
    complain,
    find,
    open_storage,
    settings_of,
    size_of,
)

if TYPE_CHECKING:
    from store import Digest, Ref, Store

    from ..settings import Settings
    from .storage import ResolvedVersion


def pin(meeting: str, *, storage_path: StoragePath = None, config: Config = None, as_json: AsJson = False) -> int:
    """Protect a meeting's version from eviction until it is unpinned.

    Parameters
    ----------
    meeting
        Id of a meeting, or a version (its first digits suffice): every meeting that has it.
    """
    return _set_pin(meeting, storage_path, config, pinned=True, as_json=as_json)


def unpin(meeting: str, *, storage_path: StoragePath = None, config: Config = None, as_json: AsJson = False) -> int:
    """Allow the eviction of a meeting's version again.

    Parameters
    ----------
    meeting
        Id of a meeting, or a version (its first digits suffice): every meeting that has it.
    """
    return _set_pin(meeting, storage_path, config, pinned=False, as_json=as_json)


def _set_pin(word: str, storage_path: StoragePath, config: Config, *, pinned: bool, as_json: bool) -> int:
    with open_storage(settings_of(storage_path, config)) as store:
        found = find(store, word)
        if not found.refs:
            raise CommandFailed(
                f"no meeting has version {found.digest[:SHORT]}, and only meetings are pinned; "
                "assign it to one with trionode import",
                exits.USAGE,
            )
        for ref in found.refs:
            if ref.pinned != pinned:
                # The ref is read again: a running node may have switched it.
                store.change_ref(ref.meeting_id, lambda now: None if now is None else replace(now, pinned=pinned))
    meetings = [ref.meeting_id for ref in found.refs]
    if as_json:
        print_json({"version": found.digest, "meetings": meetings, "pinned": pinned})
    else:
        print(f"{', '.join(meetings)}: version {found.digest[:SHORT]} is {'pinned' if pinned else 'no longer pinned'}")
    return exits.OK


def evict(
    what: str,
    *,
    force: Annotated[bool, Parameter(negative="")] = False,
    storage_path: StoragePath = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Remove a version; or a meeting, and its version unless another meeting has it, too.

    Active downloads are completed. A running node fetches the packages of meetings in progress again.

    Parameters
    ----------
    what
        Id of a meeting, or a version (its first digits suffice).
    force
        Even if it is pinned or in progress.
    """
    with open_storage(settings_of(storage_path, config)) as store:
        found = find(store, what)
        kept = next((ref for ref in found.refs if ref.pinned or ref.in_progress), None)
        if kept is not None and not force:
            why = "pinned" if kept.pinned else "in progress"
            raise CommandFailed(f"meeting {kept.meeting_id} is {why}; use --force to remove it anyway", exits.FAILED)
        freed = _evict(store, found)
    meetings = [ref.meeting_id for ref in found.refs]
    if as_json:
        print_json({"version": found.digest, "meetings": meetings, "removed": freed > 0, "freed": freed})
    elif freed:
        print(f"version {found.digest[:SHORT]} removed, {decimal(freed)} freed")
    else:
        print(f"meeting {meetings[0]} removed; version {found.digest[:SHORT]} stays, another meeting has it")
    return exits.OK


def _evict(store: Store, found: ResolvedVersion) -> int:
    """Remove the meeting or version; return the bytes freed, 0 if the version stays."""
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
    """Remove versions that no meeting has, abandoned fetches, and more if the storage exceeds its limits.

    A version that a meeting has left stays 10 minutes, since tablets may still be sent to it, unless the limits require
    its space; a fetch that may be resumed stays as well. Pinned versions and those of meetings in progress stay. Exit
    status 1: the limits cannot be kept.

    Parameters
    ----------
    dry_run
        Only print what would be removed.
    max_bytes
        Size limit of the storage, such as 50G; 0: no limit. [TRIONODE_MAX_BYTES, default 0]
    min_free_bytes
        Space to leave free on the disk, such as 2G. [TRIONODE_MIN_FREE_BYTES, default 0]
    """
    settings = settings_of(storage_path, config, max_bytes=max_bytes, min_free_bytes=min_free_bytes)
    with open_storage(settings) as store:
        now = time.time()
        abandoned = [fill for fill in store.unfinished() if age_of(fill.last_used, now) >= RETIRED_SECONDS]
        plan, problem = _plan_gc(store, settings, now, sum(fill.size for fill in abandoned))
        sizes = {version.digest: version.size for version in (*store.versions(), *abandoned)}
        if not dry_run:
            for digest in plan:
                store.remove(digest)
            for fill in abandoned:
                store.give_up(fill.digest)
        plan.update({fill.digest: "its fetch was abandoned" for fill in abandoned})
    freed = sum(sizes[digest] for digest in plan)
    if as_json:
        removed = [{"digest": digest, "size": sizes[digest], "why": why} for digest, why in plan.items()]
        print_json({"dry_run": dry_run, "removed": removed, "freed": freed, "problem": problem or None})
    else:
        for digest, why in plan.items():
            print(f"{digest[:SHORT]}  {decimal(sizes[digest]):>10}  {why}")
        print(f"{len(plan)} versions {'would be removed' if dry_run else 'removed'}, {decimal(freed)} freed")
    if problem:
        complain(problem)
        return exits.FAILED
    return exits.OK


def _plan_gc(store: Store, settings: Settings, now: float, abandoned: int) -> tuple[dict[Digest, str], str]:
    """Return the versions to remove, with a reason each, and why the limits cannot be kept, or "".

    `abandoned` are the bytes that are freed besides.
    """
    refs: tuple[Ref, ...] = tuple(store.refs())
    named = {ref.digest for ref in refs}
    versions = store.versions()
    unnamed = [v for v in versions if v.digest not in named and age_of(v.last_used, now) >= RETIRED_SECONDS]
    plan = {version.digest: "no meeting has it" for version in unnamed}
    freed = sum(version.size for version in unnamed)
    usage = store.usage()
    after = replace(
        usage,
        stored=usage.stored - freed,
        filling=usage.filling - abandoned,
        free=usage.free + freed + abandoned,
    )
    left = [version for version in versions if version.digest not in plan]
    try:
        more = plan_eviction(left, refs, after, 0, now, keep_free=settings.min_free_bytes)
    except NoSpace:
        return plan, "the storage is over its limits, and all other versions are pinned or in progress"
    return {**plan, **dict.fromkeys(more, "over the limits")}, ""
