"""Many clients, one package: the node against the deployed node's design and nginx. See README.md for the method.

`python -m benchmarks.run_concurrency [--quick] [--only NAME] [--connections 32,64,200] [--picture FOLDER]`. A run of
everything, with nothing shortened, leaves its figures and their picture in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bench import FULL, QUICK, Bench, say
from benchmarks.cold import cold
from benchmarks.common import ROOT, BenchmarkError, show
from benchmarks.crowds import finish, memory, waits
from benchmarks.goals import Figure, show_figures
from benchmarks.herd import herd
from benchmarks.picture import MISSING, NAME, can_draw, draw
from benchmarks.runs import Run, write
from benchmarks.throughput import Load, throughput

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.common import Row


def large(bench: Bench) -> list[Figure]:
    """Measure the 64 MB package with rising numbers of connections."""
    return [figure for count in bench.plan.connections for figure in throughput(bench, Load(64, count))]


def small(bench: Bench) -> list[Figure]:
    """Measure a package so small that the cost of requests dominates."""
    return throughput(bench, Load(1, 32))


def copying(bench: Bench) -> list[Figure]:
    """Measure the 64 MB package with a client that copies bodies, as real ones do."""
    return throughput(bench, Load(64, 64, copy=True))


def tls(bench: Bench) -> list[Figure]:
    """Measure the 64 MB package over TLS."""
    return throughput(bench, Load(64, 32, tls=True))


RESULTS = ROOT / "benchmarks" / "results"

SECTIONS: dict[str, Callable[[Bench], list[Figure]]] = {
    "large": large,
    "copying": copying,
    "waits": waits,
    "cold": cold,
    "memory": memory,
    "finish": finish,
    "small": small,
    "tls": tls,
    "herd": herd,
}
"""Sections, those with the same package next to each other, see `Plan.reuse`."""


def numbers(text: str) -> tuple[int, ...]:
    """Parse positive integers separated by commas."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 1:
        raise ValueError(text)
    return found


def run(bench: Bench, names: list[str]) -> list[Figure]:
    """Measure the sections `names`. Raises `BenchmarkError` if a subject serves wrong bytes."""
    made = []
    for name in names:
        found = SECTIONS[name](bench)
        show([figure.row for figure in found])
        made += found
    if with_goals := [figure for figure in made if figure.goal is not None]:
        show_figures("Goals", with_goals)
    return made


def keep(run: Run, rows: list[Row], file: Path | None, folder: Path | None) -> None:
    """Write the figures to `file`, and to `folder` with their picture if it can be drawn; None: neither."""
    if file is not None:
        write(run, rows, file)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        results = folder / f"{NAME}.json"
        write(run, rows, results)
        drawn = draw(results, folder) if can_draw() else []
        say("written: " + ", ".join(str(path) for path in (results, *drawn)))


def main() -> int:
    """Measure, print, write. Return exit status 1 if a subject serves wrong bytes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_concurrency", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each section, less than a minute")
    parser.add_argument("--only", action="append", choices=SECTIONS, metavar="NAME", help=", ".join(SECTIONS))
    parser.add_argument("--connections", type=numbers, help="for the 64 MB package, numbers separated by commas")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="length of a turn")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="also measure the node of another checkout")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FOLDER",
        help=f"folder for {NAME}.json, .png and .svg (default: benchmarks/results, after a run of all sections)",
    )
    options = parser.parse_args()
    names = options.only or list(SECTIONS)
    plan = QUICK if options.quick else FULL
    plan = replace(
        plan,
        connections=options.connections or plan.connections,
        rounds=options.rounds or plan.rounds,
        herd_rounds=options.rounds or plan.herd_rounds,
        seconds=options.seconds or plan.seconds,
    )
    # Only the figures of a whole run are kept in the repository.
    kept = options.picture or (RESULTS if plan == FULL and options.only is None and options.beside is None else None)
    if options.picture and "large" not in names:
        parser.error("the picture shows the section large, which is not among those measured")
    if kept and not can_draw():
        say(MISSING)
    with tempfile.TemporaryDirectory(prefix="trionode-benchmark-") as folder:
        try:
            with Bench(plan, Path(folder), beside=options.beside) as bench:
                made = run(bench, names)
        except BenchmarkError as error:
            say(str(error))
            return 1
    keep(Run.here(plan.rounds, plan.seconds), [figure.row for figure in made], options.json, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
