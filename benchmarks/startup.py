"""The start time of commands and imports: `python -m benchmarks.startup [--quick] [--json FILE]`.

Each is a new process, run alternately with the others under the same conditions. A figure is the median of the rounds;
`bare` is an interpreter that does nothing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.bench import figures
from benchmarks.common import ROOT, in_turn
from benchmarks.goals import Figure, at_most, show_figures
from benchmarks.runs import Run, write

ROUNDS, QUICK_ROUNDS = 15, 5

GOAL_SECONDS = 0.25

BIN = Path(sys.executable).parent

COMMANDS: dict[str, list[str]] = {
    "bare": [sys.executable, "-c", ""],
    "import store": [sys.executable, "-c", "import store"],
    "import master_shim": [sys.executable, "-c", "import master_shim"],
    "import trionode.errors": [sys.executable, "-c", "import trionode.errors"],
    "trionode --help": [str(BIN / "trionode"), "--help"],
    "trionode serve --help": [str(BIN / "trionode"), "serve", "--help"],
    "trionode status (no node)": [str(BIN / "trionode"), "status", "--storage-path", "/nonexistent"],
    "trionode drain (no node)": [str(BIN / "trionode"), "drain", "--storage-path", "/nonexistent"],
    "trionode ls (no storage)": [str(BIN / "trionode"), "ls", "--storage-path", "/nonexistent"],
    "trionode verify (no storage)": [str(BIN / "trionode"), "verify", "--storage-path", "/nonexistent"],
    "trionode gc (no storage)": [str(BIN / "trionode"), "gc", "--storage-path", "/nonexistent"],
    "trionode import (no file)": [str(BIN / "trionode"), "import", "/nonexistent", "--meeting", "m"],
    "master-shim --help": [str(BIN / "master-shim"), "--help"],
}


def measure(rounds: int) -> list[Figure]:
    """Run every command `rounds` times. Returns seconds of wall time."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds):
        for name in in_turn(list(COMMANDS), number):
            began = time.perf_counter()
            subprocess.run(COMMANDS[name], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            found[name].append(time.perf_counter() - began)
    made = []
    for name, times in found.items():
        goals = {} if name == "bare" else {"start": at_most(GOAL_SECONDS)}
        made += figures("start of a command", name, ("start", statistics.median(times), "s"), goals=goals)
    return made


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    options = parser.parse_args()
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    made = measure(rounds)
    show_figures("Start", made)
    if options.json is not None:
        write(Run.here(rounds), [figure.row for figure in made], options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
