"""What the processes of one node say to each other, a line of JSON each.

The socket is in the storage folder, so only who may change the packages can speak on it. Times of the running clock are
`time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

import msgspec

from ..metrics import Sample  # noqa: TC001 - msgspec reads the annotations


class FillState(msgspec.Struct, frozen=True):
    """A fill of the leader. `begun`: its file and map are there. `digest` and `size` are None while nobody knows."""

    number: int
    digest: str | None
    size: int | None
    begun: bool


class FillEnd(msgspec.Struct, frozen=True):
    """How a fill has ended; `error` None: well."""

    number: int
    error: str | None


class Lack(msgspec.Struct, frozen=True):
    """The room that a fill lacked, in bytes; `never`: whatever is evicted."""

    needed: int
    available: int
    never: bool


class MeetingState(msgspec.Struct, frozen=True):
    """What the leader knows of one meeting: the fields of `sync.meetings.Meeting`."""

    id: str
    title: str
    state: str
    reason: str
    unreachable: bool
    unbuilt: bool
    lacks: Lack | None
    confirmed: str | None
    checked_from: float | None
    checked_at: float | None
    file_count: int
    working: bool
    fill: FillState | None


class Facts(msgspec.Struct, frozen=True):
    """What the leader knows of the node as a whole. `counts` are of all its processes, of which there are `workers`."""

    token: str | None
    last_look: float
    look_error: str
    connected: bool
    protocol: int
    counts: Sample
    workers: int


# -- The leader says


class Board(msgspec.Struct, tag=True):
    """What has changed since the last one: meetings, those that are over, and fills that have ended."""

    meetings: list[MeetingState]
    gone: list[str]
    ended: list[FillEnd]
    facts: Facts


class Looked(msgspec.Struct, tag=True):
    """The look that was asked for is over; `what` says why it failed, `reached` whether the master answered."""

    number: int
    what: str | None
    reached: bool
    status: int


class Draining(msgspec.Struct, tag=True):
    """The node is to take no new assignments."""


class Reloading(msgspec.Struct, tag=True):
    """The settings are to be read again."""


class Said(msgspec.Struct, tag=True):
    """A sentence for whoever gave an order; with a `status` it is the last, and that the command's exit status."""

    text: str
    status: int | None = None


# -- A worker says


class Here(msgspec.Struct, tag=True):
    """This is a worker: keep it informed."""

    pid: int


class Report(msgspec.Struct, tag=True):
    """What this process does, and which tickets it has seen since the last report."""

    counts: Sample
    tickets: list[str]


class LookAsked(msgspec.Struct, tag=True):
    """Look at the master, unless that was done less than `younger_than` seconds ago."""

    number: int
    younger_than: float


class CheckAsked(msgspec.Struct, tag=True):
    """Check a meeting; with `doubt`, take its promise back first: it could not be kept here."""

    meeting_id: str
    check: int
    doubt: bool


class Lost(msgspec.Struct, tag=True):
    """A version is not whole."""

    digest: str


# -- A command says


class Drain(msgspec.Struct, tag=True):
    """Have the whole node drain."""


class Reload(msgspec.Struct, tag=True):
    """Have the whole node read its settings again."""


FromLeader = Board | Looked | Draining | Reloading | Said
ToLeader = Here | Report | LookAsked | CheckAsked | Lost | Drain | Reload
