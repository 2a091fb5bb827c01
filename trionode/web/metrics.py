"""The node's metrics in the Prometheus exposition format, read from its services at each scrape.

Nothing is counted here, and no registry outlives an answer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from ..delivery.admission import Outcome
from ..meetings.states import MeetingState
from ..stats import SECONDS, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from store import Usage

    from ..node import Node
    from ..services import Services


def exposition(node: Node, usage: Usage, accept: str) -> tuple[bytes, str]:
    """Return the answer to a scrape and its media type: OpenMetrics if `accept` allows it, else the text format.

    Raises `NodeStopped`.
    """
    services = node.services
    registry = CollectorRegistry(auto_describe=False)
    families = [*_delivery(services), *_upkeep(services), *_state(node, services, usage)]
    registry.register(_Families(families))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Families:
    """A collector of given metric families."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _delivery(services: Services) -> Iterator[Metric]:
    downloads = services.downloads
    outcomes = {outcome.value: downloads.outcomes[outcome] for outcome in Outcome}
    yield _counters("trionode_downloads", "Downloads that have ended, by outcome.", "outcome", outcomes)
    sent = {"client": downloads.bytes_sent, "peer": downloads.bytes_sent_to_peers}
    yield _counters("trionode_sent_bytes", "Bytes of packages sent, to clients and to other nodes.", "to", sent)
    yield _gauge("trionode_downloads_active", "Active downloads.", downloads.active)
    yield _gauge("trionode_downloads_queued", "Downloads waiting for a permit.", downloads.queued)
    text = "Time from a request to the first byte of the package, in seconds."
    yield _histogram("trionode_download_first_byte_seconds", text, downloads.first_byte)
    text = "Time from a request to the last byte of a complete download, in seconds."
    yield _histogram("trionode_download_seconds", text, downloads.duration)


def _upkeep(services: Services) -> Iterator[Metric]:
    peers = services.peers.stats
    fetched = {"origin": services.master.bytes_fetched, "peer": peers.bytes_fetched}
    yield _counters("trionode_fetched_bytes", "Bytes of packages and manifests received.", "source", fetched)
    text = "Nodes passed over during a fetch, by reason."
    yield _counters("trionode_peers_passed_over", text, "reason", peers.passed_over)
    text = "Times that a node sent bytes that are not the package's, by its id."
    yield _counters("trionode_peer_wrong_bytes", text, "peer", peers.wrong_bytes)
    fills = asdict(services.meetings.fill_stats)
    yield _counters("trionode_fills", "Fills that have ended, by outcome.", "outcome", fills)
    yield _gauge("trionode_fills_active", "Fills in progress.", len(services.meetings.fills()))
    yield _counter("trionode_evictions", "Versions evicted.", services.evictor.evicted)
    repairs = asdict(services.repairer.stats)
    for name, text in {
        "scrubbed_bytes": "Bytes of stored packages read again by the scrub.",
        "repaired_chunks": "Damaged chunks repaired.",
        "repaired_bytes": "Bytes of repaired chunks.",
        "unrepairable": "Versions removed because a piece of them could not be fetched again.",
        "unrepaired": "Repairs postponed because the master did not answer.",
    }.items():
        yield _counter(f"trionode_{name}", text, repairs[name])


def _state(node: Node, services: Services, usage: Usage) -> Iterator[Metric]:
    yield _gauge("trionode_downloads_limit", "Limit of active downloads; 0: no limit.", services.downloads.limit)
    connected = services.heartbeat.connected
    yield _gauge("trionode_connected", "Whether the master has answered the last heartbeat.", connected)
    yield _gauge("trionode_start_time_seconds", "Start time of the node, in Unix seconds.", node.started_at)
    text = "Time of the last poll that the master has answered, in Unix seconds."
    yield _gauge("trionode_last_poll_seconds", text, services.poller.answered_at)
    states = Counter(meeting.state.value for meeting in services.meetings.in_progress())
    meetings = GaugeMetricFamily("trionode_meetings", "Meetings in progress, by state.", labels=["state"])
    for state in MeetingState:
        if state is not MeetingState.ENDED:
            meetings.add_metric([state.value], states[state.value])
    yield meetings
    yield _gauge("trionode_versions", "Stored versions.", len(services.store.versions()))
    storage = GaugeMetricFamily("trionode_storage_bytes", "Storage, by use.", labels=["use"])
    for use in ("stored", "filling", "free"):
        storage.add_metric([use], getattr(usage, use))
    yield storage
    yield _gauge("trionode_storage_limit_bytes", "Size limit of the storage; 0: the disk's.", usage.limit)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    total, buckets = 0, []
    for bound, count in zip((*map(str, SECONDS), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.total)
