"""What fits, and what must go for it: accounting and eviction plans. Pure: takes `now`, touches no disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import NeverFits, NoSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .digest import Digest
    from .interface import Ref, Usage, Version

LOW_WATER = 0.9
"""Part of `max_bytes` an eviction goes down to, so that the next package does not evict again."""

GRACE_SECONDS = 3600.0
"""An ended meeting's package is kept this long: meetings are reopened, and stragglers come back."""

RETIRED_SECONDS = 600.0
"""A version no meeting names any more is kept this long after its last use: clients were already sent to it."""


class Ledger:
    """How many bytes are committed and reserved, against the limits. Not locked: its one owner does that.

    `limit` (`max_bytes`, 0 for none) bounds both together; `keep_free` (`min_free_bytes`) is left to others.
    """

    def __init__(self, limit: int, keep_free: int) -> None:
        self.limit = limit
        self.keep_free = keep_free
        self.stored = 0
        self.filling = 0

    def reserve(self, size: int, free: int, total: int, held: int = 0) -> None:
        """Count `size` bytes as being filled, on a file system with `free` of `total` bytes left.

        `held` is what the same acquisition has reserved before.
        Raises `NeverFits` for what would not fit even here alone, `NoSpace` for what does not fit now; then
        nothing is counted.
        """
        most = max(0, total - self.keep_free)
        if self.limit:
            most = min(most, self.limit)
        if held + size > most:
            raise NeverFits(held + size, most)
        available = max(0, free - self.keep_free)
        if self.limit:
            available = min(available, max(0, self.limit - self.stored - self.filling))
        if size > available:
            raise NoSpace(size, available)
        self.filling += size

    def release(self, size: int) -> None:
        """Take back a reservation."""
        self.filling -= size

    def store(self, size: int) -> None:
        """Count a package as committed."""
        self.stored += size

    def forget(self, size: int) -> None:
        """Count a committed package as gone."""
        self.stored -= size


@dataclass(frozen=True, slots=True)
class _Candidate:
    version: Version
    first: bool  # an ended meeting's, or nobody's: goes before what meetings still name


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

    Never a version that a pinned or in-progress ref names, one whose meeting ended less than `grace_seconds` ago, or
    one that no ref names and that was used less than `retired_seconds` ago. Of the others those of ended meetings
    and of none go first, then the least recently used, until `low_water` of the limit is reached.
    `keep_free` is `min_free_bytes`. What is `draining` counts as free: an empty plan may mean that room comes with the
    end of a download, and that the fill is to be tried again. With `needed` 0 the store is brought back under its
    limits.

    Raises `NeverFits` when removing everything would not do, `NoSpace` when what may go now would not; in both
    cases nothing is to be removed.
    """
    used = usage.stored + usage.filling
    most = max(0, used + usage.free + usage.draining - keep_free)
    if usage.limit:
        most = min(most, usage.limit)
    if needed > most:
        raise NeverFits(needed, most)
    must = _shortage(usage, needed, keep_free, usage.limit)
    if must <= 0:
        return ()
    mark = int(usage.limit * low_water)
    want = max(must, _shortage(usage, needed, keep_free, mark)) if needed <= mark else must
    plan: list[Digest] = []
    freed = 0
    for version in _order(versions, refs, now, grace_seconds, retired_seconds):
        if freed >= want:
            break
        plan.append(version.digest)
        freed += version.size
    if freed < must:
        raise NoSpace(needed, max(0, needed - must + freed))
    return tuple(plan)


def _shortage(usage: Usage, needed: int, keep_free: int, limit: int) -> int:
    """Return how many bytes must go so that `needed` fit under `limit` and leave `keep_free`."""
    short = needed - (usage.free + usage.draining - keep_free)
    if usage.limit:
        short = max(short, usage.stored + usage.filling + needed - limit)
    return short


def _order(
    versions: Sequence[Version], refs: Sequence[Ref], now: float, grace_seconds: float, retired_seconds: float
) -> list[Version]:
    """Return what may go, in the order in which it goes."""
    named: dict[Digest, list[Ref]] = {}
    for ref in refs:
        named.setdefault(ref.digest, []).append(ref)
    candidates: list[_Candidate] = []
    for version in versions:
        mine = named.get(version.digest, [])
        if not mine:
            if now - version.last_used >= retired_seconds:
                candidates.append(_Candidate(version, first=True))
        elif not any(_kept(ref, now, grace_seconds) for ref in mine):
            candidates.append(_Candidate(version, first=all(ref.ended_at > 0 for ref in mine)))
    candidates.sort(key=lambda c: (not c.first, c.version.last_used, c.version.digest))
    return [candidate.version for candidate in candidates]


def _kept(ref: Ref, now: float, grace_seconds: float) -> bool:
    return ref.pinned or ref.in_progress or (ref.ended_at > 0 and now - ref.ended_at < grace_seconds)
