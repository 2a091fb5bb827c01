"""The effect of many clients on each other and on the server's memory: latencies, finish times, peaks."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

from benchmarks.bench import Bench, figures, say
from benchmarks.common import ROOT, BenchmarkError, in_turn, measure, quantile
from benchmarks.goals import Figure, at_most
from benchmarks.subjects import NODE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.common import Server
    from benchmarks.subjects import Subject

GREEDY = 64
"""Active downloads during the small requests."""

CROWD = 500

ALONE_SECONDS = 0.3
"""Head start of the greedy downloads before the first small request."""

LOOK_SECONDS = 0.2
"""Interval between two samples of a server's memory."""

FINISH_LIMIT_SECONDS = 120.0


def waits(bench: Bench) -> list[Figure]:
    """Measure the latency of a small request while 64 clients download a 64 MB package without a rate limit."""
    plan = bench.plan
    work = f"a small request during {GREEDY} downloads"
    say(f"{work}: {plan.rounds} rounds of {plan.seconds:g} s ...")
    package = bench.package(64)
    made: list[Figure] = []
    with bench.subjects(package) as subjects:
        found: dict[str, list[dict[str, Any]]] = {subject.name: [] for subject in subjects}
        for number in range(plan.rounds):
            for subject in in_turn(subjects, number):
                found[subject.name].append(wait_once(subject, package.size, plan.seconds, GREEDY))
    for name, rounds in found.items():
        kept = [wait for one in rounds for wait in one["kept"]]
        new = [wait for one in rounds for wait in one["new"]]
        goals = {"wait p50": at_most(5), "wait p99": at_most(15)} if name == NODE else {}
        made += figures(
            work,
            name,
            ("wait p50", quantile(kept, 0.5) * 1e3, "ms"),
            ("wait p99", quantile(kept, 0.99) * 1e3, "ms"),
            ("wait on a new connection p50", quantile(new, 0.5) * 1e3, "ms"),
            ("wait on a new connection p99", quantile(new, 0.99) * 1e3, "ms"),
            ("throughput beside", statistics.median(one["rate"] for one in rounds) / 1e6, "MB/s"),
            goals=goals,
        )
    return made


def wait_once(subject: Subject, size: int, seconds: float, connections: int, *flags: str) -> dict[str, Any]:
    """Run the greedy client, and within its time the probe with small requests.

    `flags` are for the client. Returns the probe's output, with the client's `rate` (bytes/s) and `seconds`.
    """
    server = subject.server
    command = [sys.executable, "-m", "benchmarks.probe", "--port", str(server.port), "--path", subject.small]
    delayed = ["sh", "-c", f'sleep {ALONE_SECONDS}; exec "$@"', "sh", *command, "--seconds", str(seconds)]
    with subprocess.Popen(delayed, cwd=ROOT, stdout=subprocess.PIPE, text=True) as probe:
        greedy = measure(server, subject.path, size, connections, seconds + 2 * ALONE_SECONDS, *flags)
        printed, _ = probe.communicate(timeout=60)
    if probe.returncode:
        raise BenchmarkError(f"{server.name}: the small request failed")
    found: dict[str, Any] = json.loads(printed)
    return {**found, "rate": greedy["bytes"] / greedy["seconds"], "seconds": greedy["seconds"]}


def finish(bench: Bench) -> list[Figure]:
    """Measure the spread of finish times of 500 clients that start together and download one package each."""
    plan = bench.plan
    work = f"{CROWD} clients start together, {plan.crowd_megabytes} MB each"
    say(f"{work}: {plan.rounds} rounds ...")
    package = bench.package(plan.crowd_megabytes)
    made: list[Figure] = []
    with bench.subjects(package) as subjects:
        found: dict[str, list[Sequence[float]]] = {subject.name: [] for subject in subjects}
        failed = dict.fromkeys(found, 0)
        for number in range(plan.rounds):
            for subject in in_turn(subjects, number):
                once = measure(subject.server, subject.path, package.size, CROWD, FINISH_LIMIT_SECONDS, "--once")
                found[subject.name].append(once["finish"])
                failed[subject.name] += CROWD - len(once["finish"])
    for name, rounds in found.items():
        spreads = [quantile(times, 0.99) / max(quantile(times, 0.5), 1e-9) for times in rounds]
        made += figures(
            work,
            name,
            ("finish p99/p50", statistics.median(spreads), "ratio"),
            ("finish p1", statistics.median(quantile(times, 0.01) for times in rounds), "s"),
            ("finish p50", statistics.median(quantile(times, 0.5) for times in rounds), "s"),
            ("finish p99", statistics.median(quantile(times, 0.99) for times in rounds), "s"),
            ("failed", failed[name], "of all"),
            goals={"finish p99/p50": at_most(1.3)} if name == NODE else {},
        )
    return made


class Watch:
    """Samples a server's memory, with pages that its processes share counted once."""

    def __init__(self, server: Server) -> None:
        self.peak_bytes = 0
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_again_and_again)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def _look_again_and_again(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self._server.proportional_bytes())


def memory(bench: Bench) -> list[Figure]:
    """Measure the peak resident memory of new servers during 500 downloads of a small or a large package."""
    plan = bench.plan
    work = f"memory with {CROWD} downloads"
    peaks: dict[str, dict[int, float]] = {}
    shared: dict[str, dict[int, float]] = {}
    for megabytes in (plan.large_megabytes, 1):
        say(f"{work} of {megabytes} MB ...")
        package = bench.package(megabytes)
        with bench.subjects(package) as subjects:
            for subject in subjects:
                with Watch(subject.server) as watch:
                    measure(subject.server, subject.path, package.size, CROWD, plan.seconds)
                shared.setdefault(subject.name, {})[megabytes] = watch.peak_bytes / 1e6
                peaks.setdefault(subject.name, {})[megabytes] = subject.server.peak_bytes() / 1e6
    made: list[Figure] = []
    for name, peak in peaks.items():
        small, large = peak[1], peak[plan.large_megabytes]
        values = [("peak, 1 MB package", small, "MB"), (f"peak, {plan.large_megabytes} MB package", large, "MB")]
        values.append(("peak, large over small", large / small, "ratio"))
        for megabytes, value in shared[name].items():
            values.append((f"shared pages counted once, {megabytes} MB package", value, "MB"))
        bound = {"MB": 120.0, "ratio": 1.1}
        goals = {
            metric: at_most(bound[unit])
            for metric, _, unit in values
            if name == NODE or unit != "MB" or "once" in metric
        }
        made += figures(work, name, *values, goals=goals if name == NODE else {})
    return made
