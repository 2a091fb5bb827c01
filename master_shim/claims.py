"""Noticing that several nodes use one id or one address. Pure: takes `now`.

A node that restarts or moves sends under its new instance or address only. Two nodes alternate: one that was replaced
sends again. So a conflict is noticed when that happens, and is over when it has not happened for a while.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from dataclasses import dataclass, field

from .protocol import NODE_TIMEOUT_SECONDS

CONFLICT_SECONDS = NODE_TIMEOUT_SECONDS
"""A node silent for this long is gone, and its id and address are free. Deployed nodes send every 10 s."""
MAX_USERS = 8
"""Most users of one name that are remembered. The least recent are forgotten first."""
MAX_NAMES = 20_000
"""Most ids and addresses that are remembered, those of all nodes a registry holds. The oldest are forgotten first."""
MAX_SHOWN = 3
"""Most users of one name that a text names."""


class Kind(enum.Enum):
    """What a node has to itself, and what to do if it does not."""

    ID = ("id", "remove node.json from the storage folder of one of them, or set another --node-id for it")
    ADDRESS = ("address", "correct the --node-address of one of them")

    def __init__(self, title: str, remedy: str) -> None:
        self.title = title
        self.remedy = remedy


@dataclass(slots=True)
class _Uses:
    """The use of one name. `users` have the time of their last use and how people know them, the latest last."""

    current: str = ""
    users: OrderedDict[str, tuple[float, str]] = field(default_factory=OrderedDict)
    last_use: float = -math.inf
    last_conflict: float = -math.inf


class Claims:
    """The recent users of each id and each address."""

    def __init__(self) -> None:
        # Ordered by their last use.
        self._names: OrderedDict[tuple[Kind, str], _Uses] = OrderedDict()

    def use(self, kind: Kind, name: str, user: str, shown: str, now: float) -> str:
        """Record that `user`, shown to people as `shown`, uses a name. Return the conflict in words, "" without one."""
        self._expire(now)
        uses = self._names.setdefault((kind, name), _Uses())
        self._names.move_to_end((kind, name))
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        while uses.users and now - next(iter(uses.users.values()))[0] >= CONFLICT_SECONDS:
            uses.users.popitem(last=False)
        if user != uses.current and user in uses.users:
            uses.last_conflict = now
        uses.current, uses.last_use = user, now
        uses.users[user] = (now, shown)
        uses.users.move_to_end(user)
        if len(uses.users) > MAX_USERS:
            uses.users.popitem(last=False)
        if now - uses.last_conflict >= CONFLICT_SECONDS:
            return ""
        found = sorted({shown for _, shown in uses.users.values()})[:MAX_SHOWN]
        return f"several nodes have the {kind.title} {name} ({', '.join(found)}); {kind.remedy}"

    def release(self, kind: Kind, name: str) -> None:
        """Forget the users of a name: one of them has left, and the others will be seen again."""
        self._names.pop((kind, name), None)

    def _expire(self, now: float) -> None:
        while self._names:
            key, uses = next(iter(self._names.items()))
            if now - uses.last_use < CONFLICT_SECONDS:
                break
            del self._names[key]
