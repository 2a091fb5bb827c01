"""The works of sync. Each returns its figures; see README.md for what they mean."""

from __future__ import annotations

import statistics
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from benchmarks.bench import figures, say
from benchmarks.goals import Figure, at_most
from benchmarks.sync_bench import COPIES, RELATIVE, SUBJECTS, Bench
from benchmarks.sync_cluster import LEGACY, LINE, SHIM, Outcome, Setup
from benchmarks.sync_others import ARIA2C, RSYNC, fetch, installed
from examples.demo.packages import rebuild

if TYPE_CHECKING:
    from examples.demo.packages import Package

TIME_GOALS = {2: 1.05, 4: 1.1, 8: 1.2, 16: 1.35}


def together(bench: Bench) -> list[Figure]:
    """Measure 2 to 16 nodes that start together, with the shim and at an unmodified master."""
    package = bench.package(bench.plan.size)
    made = []
    for master in (SHIM, LEGACY):
        for count in bench.plan.counts if master == SHIM else bench.plan.legacy_counts:
            work = f"{count} nodes, {bench.plan.size} MB, {master}"
            goals = {COPIES: at_most(1.03), RELATIVE: at_most(TIME_GOALS.get(count, 1.35))}
            for subject, peers in SUBJECTS.items():
                if peers or (master == SHIM and count in bench.plan.alone_counts):  # the same at each master
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
