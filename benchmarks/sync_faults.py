"""The works of sync in which something is wrong with one node. Figures are those of the others."""

from __future__ import annotations

import signal
import statistics
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.bench import figures, say
from benchmarks.goals import Figure, at_most
from benchmarks.subjects import NODE
from benchmarks.sync_bench import RELATIVE, Bench
from benchmarks.sync_cluster import MEETING, NODE_PORT, At, Cluster, Setup
from benchmarks.sync_liar import first_id

if TYPE_CHECKING:
    from benchmarks.common import Server
    from examples.demo.packages import Package

EVENT_SHARE = 0.3
"""When something happens to a node: the share of the package that the master has sent."""


def slow_node(bench: Bench) -> list[Figure]:
    """Measure the others' time when one node's line has a quarter of the speed, wherever it is in the order."""
    package = bench.package(bench.plan.size)
    made = []
    for place, index in (("first", 0), ("middle", bench.plan.many // 2), ("last", -1)):
        work = f"the {place} of {bench.plan.many} nodes at a quarter of the speed: the others"
        outcomes, slow = [], []
        say(f"{work}: {bench.plan.rounds} rounds ...")
        limit = bench.patience(Setup(bench.plan.many), package)
        for _ in range(bench.plan.rounds):
            with bench.cluster(Setup(bench.plan.many)) as cluster:
                slow = [cluster.order(package.digest)[index]]
                cluster.setup = replace(cluster.setup, slow=frozenset(slow))
                cluster.limit_lines()
                outcomes.append(cluster.fetch(package, limit))
        made += bench.figures(work, NODE, package, outcomes, {RELATIVE: at_most(1.6)}, without=slow)
        slowest = statistics.median(outcome.last() for outcome in outcomes)
        made += figures(work, NODE, ("the slow one itself", slowest, "s"))
    return made


def _first_gets(bench: Bench, work: str, number: signal.Signals) -> list[Figure]:
    """Measure the others when the first in the order gets a signal in the middle of its fetch."""
    package = bench.package(bench.plan.size)
    say(f"{work}: {bench.plan.rounds} rounds ...")
    outcomes, first = [], ""
    limit = bench.patience(Setup(bench.plan.many), package)
    for _ in range(bench.plan.rounds):
        with bench.cluster(Setup(bench.plan.many)) as cluster:
            first = cluster.order(package.digest)[0]
            cluster.limit_lines()
            event = At(EVENT_SHARE, cluster.signaller(first, number))
            outcomes.append(cluster.fetch(package, limit, meanwhile=event, without=[first]))
    return bench.figures(work, NODE, package, outcomes, {RELATIVE: at_most(1.3)}, without=[first])


def kill(bench: Bench) -> list[Figure]:
    """Measure the others when the first in the order is killed."""
    return _first_gets(bench, f"the first of {bench.plan.many} nodes is killed at 30 %: the others", signal.SIGKILL)


def silent(bench: Bench) -> list[Figure]:
    """Measure the others when the first in the order is stopped: its connections stay, and nothing comes."""
    return _first_gets(bench, f"the first of {bench.plan.many} nodes is silent from 30 %: the others", signal.SIGSTOP)


def liar(bench: Bench) -> list[Figure]:
    """Measure the others when the first in the order sends wrong bytes."""
    package = bench.package(bench.plan.size)
    honest = bench.plan.many - 1
    work = f"the first of {bench.plan.many} nodes sends wrong bytes: the others"
    say(f"{work}: {bench.plan.rounds} rounds ...")
    outcomes, lies = [], []
    limit = bench.patience(Setup(honest), package)
    for _ in range(bench.plan.rounds):
        with bench.cluster(Setup(honest)) as cluster:
            log = _start_liar(cluster, package)
            cluster.limit_lines()
            outcomes.append(cluster.fetch(package, limit))
            lies.append(int((log.log.read_text().split() or ["0"])[-1]))
    found = bench.figures(work, NODE, package, outcomes, {RELATIVE: at_most(1.3)})
    return found + figures(work, NODE, ("wrong bytes that were sent, and refused", statistics.median(lies) / 1e6, "MB"))


def _start_liar(cluster: Cluster, package: Package) -> Server:
    name = first_id(package.digest, cluster.names)
    host = cluster.hosts[name] = cluster.network.add("liar", "1.200")
    command = [sys.executable, "-m", "benchmarks.sync_liar", cluster.master_url, f"{host.address}:{NODE_PORT}", name]
    server = cluster.start("liar", host, *command, MEETING, package.digest, str(package.size))
    cluster.wait("the lying node is registered", lambda: name in cluster.listed(), 30.0)
    return server
