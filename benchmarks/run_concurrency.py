"""Many clients, one package: the node against the deployed node's design and nginx. See README.md for the method.

`python -m benchmarks.run_concurrency [--quick] [--only NAME] [--connections 32,64,200] [--json FILE]`
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
from benchmarks.common import BenchmarkError, show, write_rows
from benchmarks.crowds import finish, memory, waits
from benchmarks.goals import Figure, show_figures
from benchmarks.herd import herd
from benchmarks.throughput import Load, throughput

if TYPE_CHECKING:
    from collections.abc import Callable


def large(bench: Bench) -> list[Figure]:
    """Measure the package of a meeting with many documents, by more and more connections."""
    return [figure for count in bench.plan.connections for figure in throughput(bench, Load(64, count))]


def small(bench: Bench) -> list[Figure]:
    """Measure a package so small that requests count and not bytes."""
    return throughput(bench, Load(1, 32))


def copying(bench: Bench) -> list[Figure]:
    """Measure the large one with a client that copies what it gets, as real ones do."""
    return throughput(bench, Load(64, 64, copy=True))


def tls(bench: Bench) -> list[Figure]:
    """Measure the large one over TLS."""
    return throughput(bench, Load(64, 32, tls=True))


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
"""Those with the same package beside each other, see `Plan.reuse`."""


def numbers(text: str) -> tuple[int, ...]:
    """Parse whole numbers over zero, separated by commas."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 1:
        raise ValueError(text)
    return found


def run(bench: Bench, names: list[str]) -> list[Figure]:
    """Measure the sections of these names. Raises `BenchmarkError` when a subject does not serve the right bytes."""
    made = []
    for name in names:
        found = SECTIONS[name](bench)
        show([figure.row for figure in found])
        made += found
    if with_goals := [figure for figure in made if figure.goal is not None]:
        show_figures("Goals", with_goals)
    return made


def main() -> int:
    """Measure, print, write. Status 1 when a subject does not serve the right bytes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_concurrency", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than a minute: one short round of everything")
    parser.add_argument("--only", action="append", choices=SECTIONS, metavar="NAME", help=", ".join(SECTIONS))
    parser.add_argument("--connections", type=numbers, help="of the large package, numbers separated by commas")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="length of a turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    plan = replace(
        plan,
        connections=options.connections or plan.connections,
        rounds=options.rounds or plan.rounds,
        herd_rounds=options.rounds or plan.herd_rounds,
        seconds=options.seconds or plan.seconds,
    )
    with tempfile.TemporaryDirectory(prefix="trionode-benchmark-") as folder:
        try:
            with Bench(plan, Path(folder)) as bench:
                made = run(bench, options.only or list(SECTIONS))
        except BenchmarkError as error:
            say(str(error))
            return 1
    if options.json is not None:
        write_rows([figure.row for figure in made], options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
