"""The works of sync that measure what waits for the nodes: tablets, and the start gate of an unmodified master."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.bench import figures, say
from benchmarks.common import BenchmarkError
from benchmarks.goals import Figure, at_most
from benchmarks.subjects import DOWNLOAD, NODE
from benchmarks.sync_bench import ALONE, SUBJECTS, Bench
from benchmarks.sync_cluster import LEGACY, LINE, MEETING, NODE_PORT, At, Setup

if TYPE_CHECKING:
    from examples.demo.packages import Package

GATE_LINE = 4e6 * 8 * 1514 / 1448
"""4 MB/s of bodies, what a deployed master sends."""


def tablets(bench: Bench) -> list[Figure]:
    """Measure tablets that download from the nodes from the first second on, at a slow master."""
    package = bench.package(bench.plan.narrow_size)
    count, nodes = bench.plan.tablets, bench.plan.many
    work = f"{count} tablets, {nodes} nodes, a master at a tenth of the speed, {bench.plan.narrow_size} MB"
    metric, relative = "last tablet done", "last tablet done / without peers"
    lasts: dict[str, float] = {}
    failed: dict[str, float] = {}
    for subject, peers in SUBJECTS.items():
        rounds = bench.plan.rounds if peers else 1
        say(f"{work}, {subject}: {rounds} rounds ...")
        setup = Setup(nodes, peers=peers, master_line=LINE / 10)
        found = [_with_tablets(bench, setup, package) for _ in range(rounds)]
        lasts[subject] = statistics.median(last for last, _ in found)
        failed[subject] = statistics.median(failures for _, failures in found)
    made = []
    for subject in lasts:
        made += figures(work, subject, (metric, lasts[subject], "s"), ("failed attempts", failed[subject], "attempts"))
    return made + figures(work, NODE, (relative, lasts[NODE] / lasts[ALONE], "ratio"), goals={relative: at_most(0.3)})


def _with_tablets(bench: Bench, setup: Setup, package: Package) -> tuple[float, int]:
    """Return when the last tablet was done, and the number of failed attempts."""
    limit = bench.patience(setup, package)
    with bench.cluster(setup) as cluster:
        host = cluster.network.add("tablets", "2.1")
        addresses = [f"{node.address}:{NODE_PORT}" for node in cluster.hosts.values()]
        cluster.limit_lines()

        def begin() -> None:
            about = (str(time.monotonic()), DOWNLOAD, package.digest)
            command = (sys.executable, "-m", "benchmarks.sync_tablets", str(bench.plan.tablets), *about, *addresses)
            cluster.start("tablets", host, *command)

        cluster.fetch(package, limit, meanwhile=At(0.0, begin))
        log = cluster.folder / "tablets.log"
        cluster.wait("all tablets are done", lambda: log.read_text().endswith("\n"), limit)
        try:
            found = json.loads(log.read_text())
        except ValueError as error:
            raise BenchmarkError(f"the tablets failed:\n{log.read_text()[-2000:]}") from error
        return max(found["seconds"]), len(found["failures"])


def gate(bench: Bench) -> list[Figure]:
    """Measure the start gate of an unmodified master that sends 4 MB/s."""
    package = bench.package(bench.plan.gate_size)
    many = bench.plan.many
    work = f"start gate of an unmodified master, {bench.plan.gate_size} MB at 4 MB/s"
    subjects = {"one node": (1, True), f"{many} nodes": (many, True), f"{many} nodes, {ALONE}": (many, False)}
    found = {}
    for subject, (count, peers) in subjects.items():
        rounds = bench.plan.rounds if peers else 1
        say(f"{work}, {subject}: {rounds} rounds ...")
        setup = Setup(count, LEGACY, peers, master_line=GATE_LINE)
        found[subject] = statistics.median(_gate_once(bench, setup, package) for _ in range(rounds))
    made = []
    for subject, seconds in found.items():
        relative = seconds / found["one node"]
        goals = {"gate / one node's": at_most(1.15)} if subject == f"{many} nodes" else None
        made += figures(work, subject, ("gate", seconds, "s"), ("gate / one node's", relative, "ratio"), goals=goals)
    return made


def _gate_once(bench: Bench, setup: Setup, package: Package) -> float:
    """Return how long the gate was closed."""
    limit = bench.patience(setup, package)
    with bench.cluster(setup) as cluster:
        cluster.limit_lines()
        # Nodes are not held: the gate begins when the meeting starts, whenever they poll.
        cluster.fetch(package, limit, hold=False)
        found: dict[str, float] = {}

        def opened() -> bool:
            state = cluster.ask("/_control/state")
            found.update(state["meetings"][MEETING]["gate"] if state else {})
            return bool(found.get("opened"))

        cluster.wait("the gate is open", opened, limit)
        return found["seconds"]
