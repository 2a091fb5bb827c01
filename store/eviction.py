"""Decide which versions to evict. Pure: takes `now` and touches no disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .quota import NeverFits, NoSpace
from .records import age_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .digest import Digest
    from .records import Ref, Usage, Version

LOW_WATER = 0.9
"""An eviction goes on until the store is down to this share of `max_bytes`, so that the next package needs none."""

GRACE_SECONDS = 3600.0
"""How long the version of an ended meeting is kept: meetings are reopened, and clients download late."""

RETIRED_SECONDS = 600.0
"""How long a version without a ref is kept after its last use: clients may have been sent to it before the switch."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    version: Version
    first: bool  # evicted before the others: all its meetings have ended, or it has none


def plan_eviction(
    versions: Sequence[Version],
    refs: Sequence[Ref],
    usage: Usage,
    needed: int,
    now: float,
    *,
    keep_free: int = 0,
    low_water: float = LOW_WATER,
    grace_seconds: float = GRACE_SECONDS,
    retired_seconds: float = RETIRED_SECONDS,
) -> tuple[Digest, ...]:
    """Return the versions to remove, in order, so that `needed` more bytes fit; none when they fit already.

    Versions with a pinned or in-progress ref are never evicted, nor are those whose meeting ended less than
    `grace_seconds` ago, or those without a ref that were used less than `retired_seconds` ago. Of the others, versions
    of ended meetings and versions without a ref are evicted first, then the least recently used, until the store is
    down to `low_water` of its limit. A time stamp in the future counts as old (`age_of`). `keep_free` is
    `min_free_bytes`. Bytes that are `draining` count as free: after an empty plan the space may come only with the end
    of a download, and the fill is to be tried again. With `needed` 0 the plan brings the store under its limits.

    Raises `NeverFits` when removing every version would not be enough, `NoSpace` when removing those that may be
    evicted now would not be enough.
    """
    used = usage.stored + usage.filling
    most = max(0, used + usage.free + usage.draining - keep_free)
    if usage.limit:
        most = min(most, usage.limit)
    if needed > most:
        raise NeverFits(needed, most)
    required = _shortage(usage, needed, keep_free, usage.limit)
    if required <= 0:
        return ()
    low_mark = int(usage.limit * low_water)
    target = max(required, _shortage(usage, needed, keep_free, low_mark)) if needed <= low_mark else required
    plan: list[Digest] = []
    freed = 0
    for version in _order(versions, refs, now, grace_seconds, retired_seconds):
        if freed >= target:
            break
        plan.append(version.digest)
        freed += version.size
    if freed < required:
        raise NoSpace(needed, max(0, needed - required + freed))
    return tuple(plan)


def _shortage(usage: Usage, needed: int, keep_free: int, limit: int) -> int:
    """Return how many bytes must be removed so that `needed` fit under `limit` and leave `keep_free`."""
    short = needed - (usage.free + usage.draining - keep_free)
    if usage.limit:
        short = max(short, usage.stored + usage.filling + needed - limit)
    return short


def _order(
    versions: Sequence[Version], refs: Sequence[Ref], now: float, grace_seconds: float, retired_seconds: float
) -> list[Version]:
    """Return the versions that may be evicted, in the order of eviction."""
    named: dict[Digest, list[Ref]] = {}
    for ref in refs:
        named.setdefault(ref.digest, []).append(ref)
    candidates: list[_Candidate] = []
    for version in versions:
        mine = named.get(version.digest, [])
        if not mine:
            if age_of(version.last_used, now) >= retired_seconds:
                candidates.append(_Candidate(version, first=True))
        elif not any(_kept(ref, now, grace_seconds) for ref in mine):
            candidates.append(_Candidate(version, first=all(ref.ended_at > 0 for ref in mine)))
    candidates.sort(
        key=lambda c: (not c.first, -age_of(c.version.last_used, now), c.version.last_used, c.version.digest)
    )
    return [candidate.version for candidate in candidates]


def _kept(ref: Ref, now: float, grace_seconds: float) -> bool:
    return ref.pinned or ref.in_progress or (ref.ended_at > 0 and age_of(ref.ended_at, now) < grace_seconds)
