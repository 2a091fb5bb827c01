"""How nodes get a package from their master and from each other. See README.md for the method.

`python -m benchmarks.sync [--quick] [--only update,kill] [--nodes 2,4] [--rounds N] [--json FILE] [--picture FOLDER]`.
A run of everything, with nothing shortened, leaves its figures and their picture in benchmarks/results/. It must be run
by root, since each host has a network namespace of its own.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bench import say
from benchmarks.common import ROOT, BenchmarkError, show
from benchmarks.goals import Figure, show_figures
from benchmarks.picture import MISSING, can_draw
from benchmarks.run_concurrency import numbers
from benchmarks.runs import Run, write
from benchmarks.sync_bench import FULL, QUICK, Bench
from benchmarks.sync_faults import kill, liar, silent, slow_node
from benchmarks.sync_lines import Network
from benchmarks.sync_picture import NAME, draw
from benchmarks.sync_waits import gate, tablets
from benchmarks.sync_works import slow_master, together, update

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = ROOT / "benchmarks" / "results"

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


def works(text: str) -> tuple[str, ...]:
    """Parse names of works separated by commas."""
    found = tuple(text.split(","))
    if unknown := set(found) - WORKS.keys():
        raise argparse.ArgumentTypeError(f"no such work: {', '.join(sorted(unknown))}; there are {', '.join(WORKS)}")
    return found


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sync", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of a few small works, less than a minute")
    parser.add_argument("--only", type=works, metavar="NAME,...", help=", ".join(WORKS))
    parser.add_argument("--nodes", type=numbers, help="of the work `together`, numbers separated by commas")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FOLDER",
        help=f"folder for {NAME}.json, .png and .svg (default: benchmarks/results, after a run of all works)",
    )
    return parser.parse_args()


def run(bench: Bench, names: tuple[str, ...]) -> tuple[list[Figure], bool]:
    """Measure the works `names`. Return their figures, and whether all works succeeded.

    A work that fails is reported, and the others are measured all the same, since all of them take an hour.
    """
    made, complete = [], True
    for name in names:
        try:
            found = WORKS[name](bench)
        except BenchmarkError as error:
            say(f"{name} failed: {error}")
            complete = False
            continue
        show([figure.row for figure in found])
        made += found
    if with_goals := [figure for figure in made if figure.goal is not None]:
        show_figures("Goals", with_goals)
    return made, complete


def main() -> int:
    """Measure, print, write. Return exit status 1 if something could not be measured."""
    options = arguments()
    plan = QUICK if options.quick else FULL
    if options.nodes:
        plan = replace(plan, counts=options.nodes, alone_counts=options.nodes, legacy_counts=options.nodes)
    plan = replace(plan, rounds=options.rounds or plan.rounds)
    names = options.only or (QUICK_WORKS if options.quick else tuple(WORKS))
    kept = options.picture or (RESULTS if plan == FULL and options.only is None else None)
    if kept and not can_draw():
        say(MISSING)
    # Ended by a signal, too, it removes all namespaces and processes.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with Network():
            pass  # says at once if there can be none
    except BenchmarkError as error:
        say(str(error))
        return 1
    with tempfile.TemporaryDirectory(prefix="trionode-benchmark-") as folder:
        made, complete = run(Bench(plan, Path(folder)), names)
    rows, about = [figure.row for figure in made], Run.here(plan.rounds)
    if options.json is not None:
        write(about, rows, options.json)
    if kept is not None and (complete or options.picture):
        kept.mkdir(parents=True, exist_ok=True)
        write(about, rows, kept / f"{NAME}.json")
        drawn = draw(kept / f"{NAME}.json", kept) if can_draw() else []
        say("written: " + ", ".join(str(path) for path in (kept / f"{NAME}.json", *drawn)))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
