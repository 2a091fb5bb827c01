"""What `/metrics` says, in Prometheus' words: taken from the node when asked for, so that nothing is counted twice.

Each process takes a `Sample` of its own counters; samples of several workers add up. Nothing here is global, and no
registry outlives an answer. Pure but for what it reads of the node.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from .delivery.admission import Outcome
from .histogram import SECONDS, Histogram
from .sync.plan import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from store import Usage

    from .node import Node


class Spread(msgspec.Struct):
    """A histogram as it is passed on: see `histogram.Histogram`."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def __add__(self, other: Spread) -> Spread:
        """Return both together."""
        return Spread([a + b for a, b in zip(self.counts, other.counts, strict=True)], self.total + other.total)


class Sample(msgspec.Struct):
    """The counters of one process, or of several together. Bytes are bytes; the keys say which."""

    downloads: dict[str, int] = {}
    bytes_sent: int = 0
    bytes_fetched: dict[str, int] = {}
    active: int = 0
    queued: int = 0
    first_byte: Spread = msgspec.field(default_factory=Spread)
    duration: Spread = msgspec.field(default_factory=Spread)
    fills: dict[str, int] = {}
    filling: int = 0
    evicted: int = 0
    scrub: dict[str, int] = {}

    def __add__(self, other: Sample) -> Sample:
        """Return both together."""
        return Sample(
            downloads=_both(self.downloads, other.downloads),
            bytes_sent=self.bytes_sent + other.bytes_sent,
            bytes_fetched=_both(self.bytes_fetched, other.bytes_fetched),
            active=self.active + other.active,
            queued=self.queued + other.queued,
            first_byte=self.first_byte + other.first_byte,
            duration=self.duration + other.duration,
            fills=_both(self.fills, other.fills),
            filling=self.filling + other.filling,
            evicted=self.evicted + other.evicted,
            scrub=_both(self.scrub, other.scrub),
        )

    @property
    def finished(self) -> int:
        """How many downloads were sent whole."""
        return self.downloads.get(Outcome.SENT.value, 0)

    @property
    def broken_off(self) -> int:
        """How many ended before their end."""
        return self.downloads.get(Outcome.LEFT.value, 0) + self.downloads.get(Outcome.FAILED.value, 0)

    def ended(self) -> Sample:
        """Return what is left of this when its process has ended: what went on was broken off."""
        left = {Outcome.LEFT.value: self.active}
        return msgspec.structs.replace(self, downloads=_both(self.downloads, left), active=0, queued=0, filling=0)


def _both(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    # Not `Counter + Counter`, which drops what is 0.
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def take(node: Node) -> Sample:
    """Return what this process has counted since it started."""
    downloads, health = node.downloads, node.meetings.healer.health
    return Sample(
        downloads={outcome.value: downloads.outcomes[outcome] for outcome in Outcome},
        bytes_sent=downloads.bytes_sent,
        bytes_fetched={"origin": node.master.bytes_fetched},
        active=downloads.active,
        queued=downloads.queued,
        first_byte=_spread(downloads.first_byte),
        duration=_spread(downloads.duration),
        fills={"done": node.meetings.fills_done, "failed": node.meetings.fills_failed},
        # Elsewhere than in the leader they are copies of its own.
        filling=len(node.meetings.filling()) if node.leader else 0,
        evicted=node.evictor.evicted,
        scrub={name: getattr(health, name) for name in health.__slots__},
    )


def _spread(histogram: Histogram) -> Spread:
    return Spread(list(histogram.counts), histogram.total)


def write(node: Node, sample: Sample, usage: Usage, accept: str) -> tuple[bytes, str]:
    """Return the answer to a scrape, and its media type: the text format, or OpenMetrics for who accepts it.

    `sample` is of all processes of the node; what they share is read from this one.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*_delivery(sample), *_upkeep(sample), *_shared(node, usage)]))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Families:
    """A collector of what is known already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _delivery(sample: Sample) -> Iterator[Metric]:
    yield _counters("trionode_downloads", "Downloads that have ended, by how.", "outcome", sample.downloads)
    yield _counter("trionode_sent_bytes", "Bytes of packages sent to clients.", sample.bytes_sent)
    yield _gauge("trionode_downloads_active", "Downloads that go on.", sample.active)
    yield _gauge("trionode_downloads_queued", "Downloads that wait for a place.", sample.queued)
    text = "From a request to the first byte of the package, in seconds."
    yield _histogram("trionode_download_first_byte_seconds", text, sample.first_byte)
    text = "From a request to the last byte, of downloads that were sent whole, in seconds."
    yield _histogram("trionode_download_seconds", text, sample.duration)


def _upkeep(sample: Sample) -> Iterator[Metric]:
    text = "Bytes of packages and manifests received, by where they came from."
    yield _counters("trionode_fetched_bytes", text, "source", sample.bytes_fetched)
    yield _counters("trionode_fills", "Acquisitions of a version that have ended, by how.", "outcome", sample.fills)
    yield _gauge("trionode_fills_active", "Acquisitions of a version that go on.", sample.filling)
    yield _counter("trionode_evictions", "Versions evicted.", sample.evicted)
    for name, text in {
        "scrubbed_bytes": "Bytes of stored packages read again to look for damage.",
        "repaired_chunks": "Damaged chunks that were put right.",
        "repaired_bytes": "Bytes of them.",
        "unrepairable": "Versions removed because a piece of them could not be had again.",
        "unrepaired": "Repairs left for later because the master could not be asked.",
    }.items():
        yield _counter(f"trionode_{name}", text, sample.scrub.get(name, 0))


def _shared(node: Node, usage: Usage) -> Iterator[Metric]:
    yield _gauge("trionode_downloads_limit", "Downloads allowed at once; 0: any number.", node.downloads.limit)
    yield _gauge("trionode_connected", "Whether the master has answered the last heartbeat.", node.pulse.connected)
    yield _gauge("trionode_start_time_seconds", "When the node was started, in Unix seconds.", node.started_at)
    yield _gauge("trionode_last_look_seconds", "When the master last said what goes on.", node.meetings.last_look)
    states = Counter(meeting.state.value for meeting in node.meetings.in_progress())
    text = "Meetings in progress, by the state of their package."
    meetings = GaugeMetricFamily("trionode_meetings", text, labels=["state"])
    for state in State:
        if state is not State.ENDED:
            meetings.add_metric([state.value], states[state.value])
    yield meetings
    yield _gauge("trionode_versions", "Versions stored.", len(node.store.versions()))
    storage = GaugeMetricFamily("trionode_storage_bytes", "Room in the storage, by its use.", labels=["use"])
    for use in ("stored", "filling", "free"):
        storage.add_metric([use], getattr(usage, use))
    yield storage
    yield _gauge("trionode_storage_limit_bytes", "What may be stored; 0: what the disk holds.", usage.limit)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _histogram(name: str, text: str, spread: Spread) -> Metric:
    running, buckets = 0, []
    for bound, count in zip((*map(str, SECONDS), "+Inf"), spread.counts, strict=True):
        running += count
        buckets.append((bound, running))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=spread.total)
