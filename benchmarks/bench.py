"""Common parts of the sections of run_concurrency: the plan, the packages, the subjects."""

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


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. In each of a work's `rounds` every subject has one turn of `seconds`."""

    rounds: int
    seconds: float
    connections: tuple[int, ...]
    """Numbers of connections for the 64 MB package."""
    crowd_megabytes: int
    """Package that each of 500 clients downloads once in a turn."""
    large_megabytes: int
    """Large package of the memory work and of the cold work."""
    herd_clients: int
    herd_megabytes: int
    herd_rounds: int
    reuse: bool
    """Whether consecutive works with the same package share their servers."""
    herd_patience: float
    """Time limit of a subject of the herd, as a multiple of the origin's own time."""


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
    beside: Path | None = None
    """Another checkout of this project, whose node is measured as well."""
    _packages: dict[int, Package] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _running: tuple[tuple[str, bool], list[Subject]] | None = None

    def package(self, megabytes: int) -> Package:
        """Return a package of about `megabytes` million bytes; its folder holds only one other, small file."""
        if megabytes not in self._packages:
            self._packages[megabytes] = make(self.folder / f"{megabytes}-MB", megabytes)
        return self._packages[megabytes]

    @contextlib.contextmanager
    def subjects(self, package: Package, *, tls: bool = False) -> Iterator[list[Subject]]:
        """Run all installed subjects. Their digests are verified before and after the block.

        Servers are started anew, unless the plan allows reusing those of the last block.
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
        """End the running subjects."""
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
        if self.beside is not None:
            found.append(start_node(stack, folder, master.port, checkout=self.beside, certificate=certificate))
        if not tls:
            found.append(start_deployed(stack, folder, files))
        if (server := start_nginx(stack, folder, files, tuning=self.tuning, certificate=certificate)) is not None:
            found.append(server)
        for subject in found:
            subject.server.wait_digest(subject.path, package.digest)
        return found

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End the running subjects."""
        self.end()


def say(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def figures(
    work: str, subject: str, *values: tuple[str, float, str], goals: dict[str, Goal] | None = None
) -> list[Figure]:
    """Return figures (metric, value, unit) of one subject; `goals` by metric."""
    goals = goals or {}
    return [Figure(Row(work, subject, metric, value, unit), goals.get(metric)) for metric, value, unit in values]
