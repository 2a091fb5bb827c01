"""Common parts of the works of sync: the plan, the packages, one run, and what one transfer takes."""

from __future__ import annotations

import contextlib
import http.client
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bench import figures
from benchmarks.common import BenchmarkError
from benchmarks.subjects import DIRECT, NODE, make
from benchmarks.sync_cluster import LINE, MASTER_PORT, Cluster, Outcome, Setup

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.goals import Figure, Goal
    from examples.demo.packages import Package

ALONE = "each alone"
"""Nodes of ours with `peers = off`: each fetches from the master, as deployed ones do."""

SUBJECTS = {NODE: True, ALONE: False}

COPIES = "copies the master sent"
LINE_COPIES = "copies on the master's line"
SECONDS = "time until all have it"
RELATIVE = "time / one transfer"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: each figure is the median of `rounds`. Sizes are in millions of bytes.

    With `beside`, aria2c and rsync are measured, too, and the nodes without each other in all works.
    """

    rounds: int = 3
    counts: tuple[int, ...] = (2, 4, 8, 16)
    """Numbers of nodes that start together."""
    alone_counts: tuple[int, ...] = (2, 4, 8)
    """For which of them it is measured, too, what nodes do without each other: as many copies as nodes."""
    legacy_counts: tuple[int, ...] = (2, 4, 8, 16)
    many: int = 8
    """Number of nodes of all other works."""
    size: int = 64
    update_size: int = 80
    narrow_size: int = 16
    """For works whose master has a tenth of the speed."""
    gate_size: int = 41
    tablets: int = 100
    beside: bool = True


FULL = Plan()
QUICK = Plan(
    rounds=1,
    counts=(2, 4),
    alone_counts=(4,),
    legacy_counts=(2,),
    many=4,
    size=4,
    update_size=8,
    narrow_size=2,
    gate_size=4,
    tablets=20,
    beside=False,
)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One download of a package by a plain client, on lines as in the run: seconds, and bytes on the master's line."""

    seconds: float
    line_bytes: float


@dataclass(slots=True)
class Bench:
    """One run of the benchmark: its plan and its folder, and what was made and measured so far."""

    plan: Plan
    folder: Path
    _packages: dict[int, Package] = field(default_factory=dict)
    _transfers: dict[tuple[str, float], Transfer] = field(default_factory=dict)

    def package(self, megabytes: int) -> Package:
        """Return a package of about `megabytes` million bytes."""
        if megabytes not in self._packages:
            self._packages[megabytes] = make(self.folder / f"{megabytes}-MB", megabytes)
        return self._packages[megabytes]

    @contextlib.contextmanager
    def cluster(self, setup: Setup) -> Iterator[Cluster]:
        """Run the cluster of `setup` with empty folders, on lines without limit so far."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder, Cluster(setup, Path(folder)) as found:
            yield found

    def fetch(self, setup: Setup, package: Package) -> Outcome:
        """Let all nodes of a new cluster fetch `package` on limited lines."""
        limit = self.patience(setup, package)
        with self.cluster(setup) as cluster:
            cluster.limit_lines()
            return cluster.fetch(package, limit)

    def transfer(self, package: Package, master_line: float = LINE) -> Transfer:
        """Return what one transfer of `package` takes. It is measured once, while no cluster runs."""
        key = (package.digest, master_line)
        if key not in self._transfers:
            self._transfers[key] = self._measure_transfer(package, master_line)
        return self._transfers[key]

    def _measure_transfer(self, package: Package, master_line: float) -> Transfer:
        seconds, line_bytes = [], []
        with self.cluster(Setup(0, master_line=master_line)) as cluster:
            host = cluster.network.add("client", "1.1")
            cluster.publish(package)
            cluster.limit_lines()
            cluster.network.limit(host, LINE)
            for _ in range(self.plan.rounds):
                before, began = cluster.network.sent(cluster.master), time.monotonic()
                with host.entered():
                    _download(cluster.master.address, package)
                seconds.append(time.monotonic() - began)
                line_bytes.append(cluster.network.sent(cluster.master) - before)
        return Transfer(statistics.median(seconds), statistics.median(line_bytes))

    def patience(self, setup: Setup, package: Package) -> float:
        """Return the time limit of a run: twice what all nodes need one after the other at the master."""
        return 60.0 + 2 * setup.nodes * package.size * 8 / setup.master_line

    def figures(
        self,
        work: str,
        subject: str,
        package: Package,
        outcomes: Sequence[Outcome],
        goals: dict[str, Goal] | None = None,
        *,
        master_line: float = LINE,
        without: Sequence[str] = (),
    ) -> list[Figure]:
        """Return the medians of copies and times of one subject."""
        one = self.transfer(package, master_line)
        last = statistics.median(outcome.last(without) for outcome in outcomes)
        found = [
            (SECONDS, last, "s"),
            (RELATIVE, last / one.seconds, "ratio"),
            (LINE_COPIES, statistics.median(outcome.line_bytes for outcome in outcomes) / one.line_bytes, "copies"),
        ]
        # Bodies are counted by the relay, which other programs do not use.
        if any(outcome.package_bytes for outcome in outcomes):
            bodies = statistics.median(outcome.package_bytes for outcome in outcomes)
            found.insert(0, (COPIES, bodies / package.size, "copies"))
        return figures(work, subject, *found, goals=goals)


def _download(address: str, package: Package) -> None:
    with contextlib.closing(http.client.HTTPConnection(address, MASTER_PORT, timeout=60)) as connection:
        connection.request("GET", DIRECT)
        answer = connection.getresponse()
        received = 0
        while data := answer.read(1 << 18):
            received += len(data)
    if received != package.size:
        raise BenchmarkError(f"the master sent {received} of {package.size} bytes")
