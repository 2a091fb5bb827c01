"""How long a node takes for many meetings: `python -m benchmarks.many_meetings [--quick] [--json FILE]`.

Its storage is empty. The time is from the start of the node's process until all meetings are current, each with a small
package of its own at `master-shim serve`. What grows faster than their number shows in the figures for one meeting.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.request
import zipfile
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks.bench import figures
from benchmarks.common import BenchmarkError, Server, free_port
from benchmarks.goals import Figure, at_most, show_figures
from benchmarks.runs import Run, write
from benchmarks.subjects import start_master

COUNTS, QUICK_COUNTS = (150, 600, 3_000), (150, 600)

GOAL_SECONDS = 30.0
"""For the largest number of meetings."""

PACKAGE_BYTES = 20_000
LIMIT_SECONDS = 600.0
POLL_SECONDS = 0.5

BIN = Path(sys.executable).parent
CURRENT = 'trionode_meetings{state="current"} '


def seconds_until_current(count: int) -> float:
    """Start a master with `count` meetings and a node; return the time until the node has all of them."""
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        folder = Path(made)
        files = folder / "packages"
        files.mkdir()
        for number in range(count):
            with zipfile.ZipFile(files / f"m{number:05}.zip", "w") as archive:
                archive.writestr("README.txt", f"meeting {number}")
                archive.writestr("a.pdf", os.urandom(PACKAGE_BYTES))
        master = start_master(stack, folder, files)
        # The master has hashed every package when it answers.
        with urllib.request.urlopen(f"http://127.0.0.1:{master.port}/api/v1/meetings/status/node") as answer:
            assert len(json.load(answer)["active_meetings"]) == count
        port = free_port()
        command = [BIN / "trionode", "serve", "--main-server", f"http://127.0.0.1:{master.port}", "--host", "127.0.0.1"]
        began = time.perf_counter()
        command += ["--port", str(port), "--storage-path", folder / "storage"]
        stack.enter_context(Server("trionode", port, command, folder / "node.log"))
        while time.perf_counter() - began < LIMIT_SECONDS:
            with suppress(OSError):
                if current_meetings(port) == count:
                    return time.perf_counter() - began
            time.sleep(POLL_SECONDS)
    raise BenchmarkError(f"not all of {count} meetings were current within {LIMIT_SECONDS:g} s")


def current_meetings(port: int) -> int:
    """Return how many meetings are current at a node."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT_SECONDS) as answer:
        lines = answer.read().decode().splitlines()
    return int(float(next(line for line in lines if line.startswith(CURRENT)).removeprefix(CURRENT)))


def measure(counts: tuple[int, ...]) -> list[Figure]:
    """Return the seconds for each number of meetings, and the milliseconds for one of them."""
    made = []
    for count in counts:
        seconds = seconds_until_current(count)
        made += figures(
            "a node with an empty storage",
            f"{count} meetings",
            ("all current", seconds, "s"),
            ("for each", 1e3 * seconds / count, "ms"),
            goals={"all current": at_most(GOAL_SECONDS)} if count == COUNTS[-1] else {},
        )
    return made


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_meetings", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer meetings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    options = parser.parse_args()
    made = measure(QUICK_COUNTS if options.quick else COUNTS)
    show_figures("Many meetings", made)
    if options.json is not None:
        write(Run.here(1), [figure.row for figure in made], options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
