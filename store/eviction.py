"""Decide which versions to evict. Pure: takes `now` and touches no disk."""

from __future__ import annotations

import enum
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
"""How long the version of an ended meeting is evicted only for need: meetings are reopened, clients download late."""

RETIRED_SECONDS = 600.0
"""The same for a version without a ref, from its last use: clients may have been sent to it before the switch."""

JUST_LEFT_SECONDS = 60.0
"""Clients were sent to a version that its meeting left so lately: it is evicted after all others."""


class _Turn(enum.IntEnum):
    """When a version is evicted: all of one turn before any of the next."""

    OLD = enum.auto()  # all its meetings have ended, or it has none; the only turn that is evicted ahead of need
    LATELY = enum.auto()  # the same, less than `GRACE_SECONDS` or `RETIRED_SECONDS` ago
    EXPECTED = enum.auto()  # a meeting has it that was never in progress: an import
    JUST_LEFT = enum.auto()


def plan_eviction(
    versions: Sequence[Version],
    refs: Sequence[Ref],
    usage: Usage,
    needed: int,
    now: float,
    *,
    spare: int = 0,
    keep_free: int = 0,
    low_water: float = LOW_WATER,
) -> tuple[Digest, ...]:
    """Return the versions to remove, in order, so that `needed` more bytes fit; none when they fit already.

    Never removed: versions with a pinned or in-progress ref, and those that are in use. The others go in the order of
    `_Turn`, the least recently used first; a time stamp in the future counts as old (`age_of`). Versions that are
    `_Turn.OLD` are also removed ahead of need: for `spare` bytes more, and then until the store is down to `low_water`
    of its limit. `keep_free` is `min_free_bytes`. Bytes that are `draining` count as free: after an empty plan the
    space may come only with the end of a download, and the fill is to be tried again. With `needed` 0 the plan brings
    the store under its limits.

    Raises `NeverFits` when neither an empty store nor, less `keep_free`, an empty disk would be enough; `NoSpace` when
    removing what may be evicted now would not be enough.
    """
    most = max(0, usage.total - keep_free)
    if usage.limit:
        most = min(most, usage.limit)
    if needed > most:
        raise NeverFits(needed, most)
    required = _shortage(usage, needed, keep_free, usage.limit)
    target = _shortage(usage, needed + spare, keep_free, usage.limit)
    if target <= 0:
        return ()
    low_mark = int(usage.limit * low_water)
    if needed <= low_mark:
        target = max(target, _shortage(usage, needed, keep_free, low_mark))
    plan: list[Digest] = []
    freed = 0
    for turn, version in _order(versions, refs, now):
        if freed >= (target if turn is _Turn.OLD else required):
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


def _order(versions: Sequence[Version], refs: Sequence[Ref], now: float) -> list[tuple[_Turn, Version]]:
    """Return the versions that may be evicted, in the order of eviction."""
    kept = {ref.digest for ref in refs if ref.pinned or ref.in_progress}
    turns: dict[Digest, _Turn] = {}
    for ref in refs:
        turn = _turn(age_of(ref.ended_at, now), GRACE_SECONDS) if ref.ended_at > 0 else _Turn.EXPECTED
        turns[ref.digest] = max(turn, turns.get(ref.digest, turn))
    candidates = [
        (turns.get(version.digest) or _turn(age_of(version.last_used, now), RETIRED_SECONDS), version)
        for version in versions
        if version.digest not in kept and not version.in_use
    ]
    candidates.sort(key=lambda c: (c[0], -age_of(c[1].last_used, now), c[1].last_used, c[1].digest))
    return candidates


def _turn(left_ago: float, lately: float) -> _Turn:
    """Return the turn of a version that its meeting left that many seconds ago."""
    if left_ago < JUST_LEFT_SECONDS:
        return _Turn.JUST_LEFT
    return _Turn.LATELY if left_ago < lately else _Turn.OLD
