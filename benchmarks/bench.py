"""What the rooms of run_concurrency share: how much is measured, the packages, and who takes part."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmarks.common import BenchmarkError, Row
from benchmarks.goals import Figure, Goal
from benchmarks.subjects import (
    NODE,
    NODE_2,
    Subject,
    Tuning,
    make,
    make_certificate,
    start_deployed,
    start_master,
    start_nginx,
    start_node,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from examples.demo.packages import Package

OURS = (NODE, NODE_2)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. A work has `rounds` rounds, in each of which every subject has its turn of `seconds`."""

    rounds: int
    seconds: float
    connections: tuple[int, ...]
    """Of the large package."""
    crowd_megabytes: int
    """The package of which 500 clients take one each: 500 times that is moved in each turn."""
    large_megabytes: int
    """The large package of the memory work, and the one that is not in memory."""
    herd_clients: int
    herd_megabytes: int
    herd_rounds: int
    reuse: bool
    """Whether works in a row with the same package share their servers."""
    herd_patience: float
    """A subject of the herd that is not done after so many times the origin's own time is cut off."""


FULL = Plan(
    rounds=5,
    seconds=3.0,
    connections=(32, 64, 200),
    crowd_megabytes=16,
    large_megabytes=500,
    herd_clients=200,
    herd_megabytes=20,
    herd_rounds=5,
    herd_patience=10.0,
    reuse=False,
)
QUICK = Plan(
    rounds=1,
    seconds=0.25,
    connections=(64,),
    crowd_megabytes=1,
    large_megabytes=64,
    herd_clients=50,
    herd_megabytes=2,
    herd_rounds=1,
    herd_patience=3.0,
    reuse=True,
)


@dataclass(slots=True)
class Bench:
    """One run of the benchmark: its plan, its folder, and the packages made so far."""

    plan: Plan
    folder: Path
    tuning: Tuning = field(default_factory=Tuning)
    workers: bool = True
    """Whether a node with two workers takes part."""
    _packages: dict[int, Package] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _running: tuple[tuple[str, bool], list[Subject]] | None = None

    def package(self, megabytes: int) -> Package:
        """Return a package of about so many million bytes, alone in its folder but for a small file."""
        if megabytes not in self._packages:
            self._packages[megabytes] = make(self.folder / f"{megabytes}-MB", megabytes)
        return self._packages[megabytes]

    @contextlib.contextmanager
    def subjects(self, package: Package, *, tls: bool = False) -> Iterator[list[Subject]]:
        """Run everyone who can take part, each known to serve the right bytes before and after the block.

        They are new ones, unless the plan says that those of the last block will do.
        """
        key = (package.digest, tls)
        if self._running is None or self._running[0] != key or not self.plan.reuse:
            self.end()
            self._running = (key, self._start(package, tls=tls))
        found = self._running[1]
        yield found
        for subject in found:
            subject.server.wait_digest(subject.path, package.digest)
        if not self.plan.reuse:
            self.end()

    def end(self) -> None:
        """End what runs."""
        if self._running is not None:
            for subject in self._running[1]:
                subject.server.end()
        self._running = None
        self._stack.close()

    def _start(self, package: Package, *, tls: bool) -> list[Subject]:
        files = package.path.parent
        stack = self._stack
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.folder)))
        certificate = make_certificate(folder) if tls else None
        if tls and certificate is None:
            raise BenchmarkError("openssl is not installed")
        master = start_master(stack, folder, files)
        found = [start_node(stack, folder, master.port, certificate=certificate)]
        if self.workers:
            found.append(start_node(stack, folder, master.port, workers=2, certificate=certificate))
        if not tls:
            found.append(start_deployed(stack, folder, files))
        if (server := start_nginx(stack, folder, files, tuning=self.tuning, certificate=certificate)) is not None:
            found.append(server)
        for subject in found:
            subject.server.wait_digest(subject.path, package.digest)
        two = next((subject for subject in found if subject.name == NODE_2), None)
        if two is not None and two.server.processes() < 2:
            say(f"{NODE_2}: left out, since this version runs one process whatever is asked for")
            self.workers = False
            found.remove(two)
        return found

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End what runs."""
        self.end()


def say(text: str) -> None:
    """Tell whoever waits what goes on."""
    print(text, file=sys.stderr, flush=True)


def figures(
    work: str, subject: str, *values: tuple[str, float, str], goals: dict[str, Goal] | None = None
) -> list[Figure]:
    """Return figures (metric, value, unit) of one subject; `goals` by metric."""
    goals = goals or {}
    return [Figure(Row(work, subject, metric, value, unit), goals.get(metric)) for metric, value, unit in values]
