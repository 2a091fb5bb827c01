"""Which part of a package is fetched next: what a client waits for, and else what comes first. Pure."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

AHEAD_BYTES = 4 << 20
"""How far before a client that waits parts are fetched early: while it is sent one, the next are on their way."""


def choose(left: Sequence[range], wanted: Sequence[int]) -> int:
    """Return the index of the part to fetch next. `left` is not empty: the parts not yet asked for, in package order.

    `wanted` are the offsets at which clients wait, longest first. First the parts they wait for, in that order; a part
    that is not left is on its way. Then what soon follows for them, and then the first of all.
    """
    following = [(offset, bisect_right(left, offset, key=lambda part: part.stop)) for offset in wanted]
    found = [(offset, index) for offset, index in following if index < len(left)]
    for offset, index in found:
        if left[index].start <= offset:
            return index
    for offset, index in found:
        if left[index].start < offset + AHEAD_BYTES:
            return index
    return 0
