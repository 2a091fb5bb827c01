"""Bytes per second of many clients that download one package repeatedly, and the cost of a byte."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.bench import Bench, figures, say
from benchmarks.common import in_turn, measure, quantile, ratio
from benchmarks.goals import Figure, Goal, at_least, at_most
from benchmarks.subjects import BESIDE, DEPLOYED, NGINX, NODE

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Load:
    """One work: the package, the number of connections, and how the client receives it."""

    megabytes: int
    connections: int
    copy: bool = False
    tls: bool = False

    def __str__(self) -> str:
        kind = (", TLS" if self.tls else "") + (", copying client" if self.copy else "")
        return f"{self.megabytes} MB package, {self.connections} connections{kind}"

    @property
    def flags(self) -> list[str]:
        """The client's."""
        return ["--copy"] * self.copy + ["--tls"] * self.tls


@dataclass(slots=True)
class Rounds:
    """The client's measurements of one subject and one work, a value for each round."""

    bytes_per_second: list[float] = field(default_factory=list)
    cpu_per_gigabyte: list[float] = field(default_factory=list)
    client_share: list[float] = field(default_factory=list)
    first_byte: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def add(self, found: dict[str, Any]) -> None:
        """Add the output of one run of the client."""
        self.bytes_per_second.append(found["bytes"] / found["seconds"])
        self.cpu_per_gigabyte.append(found["server_cpu"] / max(found["bytes"], 1) * 1e9)
        self.client_share.append(found["client_cpu"] / found["seconds"])
        self.first_byte += found["first_byte"]

    def figures(self, work: str, subject: str, size: int) -> list[Figure]:
        """Return the figures; medians of the rounds, quantiles over the requests of all rounds."""
        rate = statistics.median(self.bytes_per_second)
        waits = [
            ("first byte p50", quantile(self.first_byte, 0.5) * 1e3, "ms"),
            ("first byte p99", quantile(self.first_byte, 0.99) * 1e3, "ms"),
        ]
        return figures(
            work,
            subject,
            ("throughput", rate / 1e6, "MB/s"),
            ("requests", rate / size, "1/s"),
            *(waits if self.first_byte else []),
            ("server CPU", statistics.median(self.cpu_per_gigabyte), "s/GB"),
            ("peak memory", self.peak_bytes / 1e6, "MB"),
            ("client CPU", statistics.median(self.client_share) * 100, "% of a core"),
        )


def throughput(bench: Bench, load: Load) -> list[Figure]:
    """Measure one work: new servers, verified digests, then rounds with a turn for every subject."""
    plan = bench.plan
    say(f"{load}: {plan.rounds} rounds of {plan.seconds:g} s ...")
    package = bench.package(load.megabytes)
    with bench.subjects(package, tls=load.tls) as subjects:
        rounds = {subject.name: Rounds() for subject in subjects}
        for number in range(plan.rounds):
            for subject in in_turn(subjects, number):
                found = measure(subject.server, subject.path, package.size, load.connections, plan.seconds, *load.flags)
                rounds[subject.name].add(found)
        for subject in subjects:
            rounds[subject.name].peak_bytes = subject.server.peak_bytes()
    made = [figure for name in rounds for figure in rounds[name].figures(str(load), name, package.size)]
    return made + _ratios(load, rounds)


def _ratios(load: Load, rounds: Mapping[str, Rounds]) -> list[Figure]:
    """Return the node's throughput, and its cost of a byte, relative to each other subject."""
    made = []
    for other in [name for name in rounds if name != NODE]:
        names = f"{NODE} / {other}"
        value = ratio(rounds[NODE].bytes_per_second, rounds[other].bytes_per_second)
        made += figures(str(load), names, ("throughput", value, "times"), goals=_goal(load, other))
        value = ratio(rounds[NODE].cpu_per_gigabyte, rounds[other].cpu_per_gigabyte)
        goal = {"server CPU": at_most(0.7)} if other == NGINX and load.megabytes == 64 and not load.tls else None
        made += figures(str(load), names, ("server CPU", value, "times"), goals=goal)
    return made


def _goal(load: Load, other: str) -> dict[str, Goal] | None:
    if other == BESIDE:
        bound = 0.95
    elif load.tls:
        bound = 0.9
    elif other == DEPLOYED and load.megabytes == 64:
        bound = 5.0
    elif other == NGINX and load.megabytes == 64:
        bound = 2.5
    elif other == NGINX and load.megabytes == 1:
        bound = 0.9
    else:
        return None
    return {"throughput": at_least(bound)}
