"""The works of sync. Each returns its figures; see README.md for what they mean."""

from __future__ import annotations

import json
import signal
import statistics
import sys
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from benchmarks.bench import figures, say
from benchmarks.common import BenchmarkError, Server
from benchmarks.goals import Figure, at_most
from benchmarks.subjects import DOWNLOAD, NODE
from benchmarks.sync_bench import COPIES, RELATIVE, Bench
from benchmarks.sync_cluster import LEGACY, LINE, MEETING, NODE_PORT, SHIM, At, Cluster, Outcome, Setup
from benchmarks.sync_liar import first_id
from benchmarks.sync_others import ARIA2C, RSYNC, fetch, installed
from examples.demo.packages import rebuild

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples.demo.packages import Package

ALONE = "each alone"
"""Nodes of ours with `peers = off`: each fetches from the master, as deployed ones do."""

SUBJECTS = {NODE: True, ALONE: False}

TIME_GOALS = {2: 1.05, 4: 1.1, 8: 1.2, 16: 1.35}

EVENT_SHARE = 0.3
"""When something happens to a node: the share of the package that the master has sent."""

GATE_LINE = 4e6 * 8 * 1514 / 1448
"""4 MB/s of bodies, what a deployed master sends."""


def together(bench: Bench) -> list[Figure]:
    """Measure 2 to 16 nodes that start together, with the shim and at an unmodified master."""
    package = bench.package(bench.plan.size)
    made = []
    for master in (SHIM, LEGACY):
        for count in bench.plan.counts if master == SHIM else bench.plan.legacy_counts:
            work = f"{count} nodes, {bench.plan.size} MB, {master}"
            goals = {COPIES: at_most(1.03), RELATIVE: at_most(TIME_GOALS.get(count, 1.35))}
            for subject, peers in SUBJECTS.items():
                if peers or count in bench.plan.alone_counts:
                    outcomes = _rounds(bench, work, subject, Setup(count, master, peers), package)
                    made += bench.figures(work, subject, package, outcomes, goals if peers else None)
            if bench.plan.beside and count == bench.plan.many and master == SHIM:
                made += _others(bench, work, package)
    return made


def _rounds(bench: Bench, work: str, subject: str, setup: Setup, package: Package) -> list[Outcome]:
    """Return the outcome of each round. Without peers one round is enough: it is long, and hardly varies."""
    rounds = bench.plan.rounds if setup.peers else 1
    say(f"{work}, {subject}: {rounds} rounds ...")
    return [bench.fetch(setup, package) for _ in range(rounds)]


def _others(bench: Bench, work: str, package: Package, old: Package | None = None) -> list[Figure]:
    """Measure the other programs. With `old`, an update, only rsync."""
    made = []
    limit = bench.patience(Setup(bench.plan.many), package)
    for name in (ARIA2C, RSYNC):
        if old is not None and name == ARIA2C:
            continue
        if name not in installed():
            say(f"{name} is not installed and is left out")
            continue
        rounds = bench.plan.rounds if name == ARIA2C else 1
        say(f"{work}, {name}: {rounds} rounds ...")
        outcomes = []
        for _ in range(rounds):
            folder = bench.folder / f"{name}-{time.monotonic_ns()}"
            folder.mkdir()
            outcomes.append(fetch(name, package, bench.plan.many, folder, limit, old=old))
        if old is None:
            made += bench.figures(work, name, package, outcomes)
        else:
            sent = statistics.median(outcome.line_bytes for outcome in outcomes) / package.new_bytes
            last = statistics.median(outcome.last() for outcome in outcomes)
            made += figures(work, name, (LINE_UPDATE, sent, "ratio"), ("time until all have it", last, "s"))
    return made


def slow_master(bench: Bench) -> list[Figure]:
    """Measure nodes whose master has a tenth of their lines' speed."""
    package = bench.package(bench.plan.narrow_size)
    work = f"{bench.plan.many} nodes, a master at a tenth of the speed, {bench.plan.narrow_size} MB"
    made = []
    for subject, peers in SUBJECTS.items():
        setup = Setup(bench.plan.many, peers=peers, master_line=LINE / 10)
        outcomes = _rounds(bench, work, subject, setup, package)
        goals = {COPIES: at_most(1.03), RELATIVE: at_most(1.05)} if peers else None
        made += bench.figures(work, subject, package, outcomes, goals, master_line=LINE / 10)
    return made


ALL_UPDATE = "packages and manifests sent / new bytes"
LINE_UPDATE = "bytes on the master's line / new bytes"


def update(bench: Bench) -> list[Figure]:
    """Measure a rebuilt package with one new document."""
    old = bench.package(bench.plan.update_size)
    folder = bench.folder / "update"
    folder.mkdir(exist_ok=True)
    middle, later = len(old.documents) // 2, old.made_at + timedelta(hours=1)
    new = rebuild(old, made_at=later, replaced=(middle,), path=folder / old.path.name)
    work = f"update: one new document of 2 MB in {bench.plan.update_size} MB, {bench.plan.many} nodes"
    made = []
    for subject, peers in SUBJECTS.items():
        if not (peers or bench.plan.beside):
            continue
        say(f"{work}, {subject}: {bench.plan.rounds} rounds ...")
        outcomes = []
        for _ in range(bench.plan.rounds):
            setup = Setup(bench.plan.many, peers=peers)
            limit = bench.patience(setup, old)
            with bench.cluster(setup) as cluster:
                cluster.fetch(old, limit, hold=False)
                cluster.limit_lines()
                outcomes.append(cluster.fetch(new, limit))
        packages = statistics.median(outcome.package_bytes for outcome in outcomes) / new.new_bytes
        manifests = statistics.median(outcome.manifest_bytes for outcome in outcomes) / new.new_bytes
        on_line = statistics.median(outcome.line_bytes for outcome in outcomes) / new.new_bytes
        last = statistics.median(outcome.last() for outcome in outcomes)
        made += figures(
            work,
            subject,
            (ALL_UPDATE, packages + manifests, "ratio"),
            ("packages alone", packages, "ratio"),
            ("manifests alone", manifests, "ratio"),
            (LINE_UPDATE, on_line, "ratio"),
            ("time until all have it", last, "s"),
            goals={ALL_UPDATE: at_most(1.1)} if peers else None,
        )
    return made + (_others(bench, work, new, old) if bench.plan.beside else [])


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


WORKS: dict[str, Callable[[Bench], list[Figure]]] = {
    "together": together,
    "slow-master": slow_master,
    "update": update,
    "slow-node": slow_node,
    "kill": kill,
    "liar": liar,
    "silent": silent,
    "tablets": tablets,
    "gate": gate,
}
"""All works by name."""

QUICK_WORKS = ("together", "update", "kill")
