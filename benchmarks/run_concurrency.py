"""Many clients, one package: the node against the deployed node's design and nginx. See README.md for the method.

`python -m benchmarks.run_concurrency [--quick] [--connections 32,64,200] [--megabytes 64,1] [--json FILE]`
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import BenchmarkError, Rounds, Row, Server, free_port, measure, nginx, ratios, show, write_rows
from examples.demo.packages import Package, make_documents, make_package

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = "trionode"
DEPLOYED = "deployed design"
MEETING = "meeting"
DOWNLOAD = f"/api/v1/meetings/{MEETING}/download-package"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: each work in `rounds` rounds of `seconds`, subjects taking turns within a round."""

    megabytes: tuple[int, ...]
    connections: tuple[int, ...]
    rounds: int
    seconds: float


FULL = Plan(megabytes=(64, 1), connections=(32, 64, 200), rounds=5, seconds=4.0)
QUICK = Plan(megabytes=(64, 1), connections=(64,), rounds=3, seconds=2.0)


def make(folder: Path, megabytes: int) -> Package:
    """Make a package of about so many million bytes: documents of up to 2 MB, as real ones have."""
    count = max(1, megabytes // 2)
    documents = make_documents(count, megabytes * 1_000_000 // count, seed=f"{megabytes} MB")
    return make_package(folder / f"{MEETING}.zip", documents, level=1)


@contextlib.contextmanager
def subjects(folder: Path, files: Path) -> Iterator[dict[str, tuple[Server, str]]]:
    """Run everyone who is compared, over the packages in `files`; yield server and path of each by name."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(start_master(folder, files))
        master.wait_up()
        found = {
            NODE: (stack.enter_context(start_node(folder, master.port)), DOWNLOAD),
            DEPLOYED: (stack.enter_context(start_deployed(folder, files)), DOWNLOAD),
        }
        if (server := nginx(folder, files)) is not None:
            found["nginx"] = (stack.enter_context(server), f"/{MEETING}.zip")
        yield found


def start_master(folder: Path, files: Path) -> Server:
    """Run a master, from which the node gets the package. It idles while the node is measured."""
    port = free_port()
    command = [sys.executable, "-m", "master_shim", "serve", "--packages", str(files), "--host", "127.0.0.1"]
    return Server("master", port, [*command, "--port", str(port)], folder / "master.log")


def start_node(folder: Path, master_port: int) -> Server:
    """Run a node as an administrator would: `trionode serve`, nothing tuned."""
    port = free_port()
    command = [sys.executable, "-m", "trionode", "serve", "--main-server", f"http://127.0.0.1:{master_port}"]
    command += ["--node-address", f"127.0.0.1:{port}", "--storage-path", str(folder / "node")]
    return Server(NODE, port, [*command, "--host", "127.0.0.1", "--port", str(port)], folder / "node.log")


def start_deployed(folder: Path, files: Path) -> Server:
    """Run the deployed node's way of sending a file."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.deployed_node", str(port), str(files)]
    return Server(DEPLOYED, port, command, folder / "deployed.log")


def compare(plan: Plan, megabytes: int, connections: int) -> list[Row]:
    """Measure one work: fresh servers, digests checked, then rounds in which every subject has its turn."""
    work = f"{megabytes} MB package, {connections} connections"
    print(f"{work}: {plan.rounds} rounds of {plan.seconds:g} s ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="trionode-benchmark-") as name:
        folder = Path(name)
        files = folder / "files"
        files.mkdir()
        package = make(files, megabytes)
        with subjects(folder, files) as found:
            for server, path in found.values():
                server.wait_digest(path, package.digest)
            rounds = {subject: Rounds() for subject in found}
            for number in range(plan.rounds):
                # Everyone begins once, so that nobody always runs on what the same other left behind.
                order = [*found][number % len(found) :] + [*found][: number % len(found)]
                for subject in order:
                    server, path = found[subject]
                    rounds[subject].add(measure(server, path, package.size, connections, plan.seconds))
            for subject, (server, path) in found.items():
                rounds[subject].peak_bytes = server.peak_bytes()
                server.wait_digest(path, package.digest)
    rows = [row for subject in found for row in rounds[subject].rows(work, subject, package.size)]
    return rows + ratios(rounds, work, NODE)


def numbers(text: str) -> tuple[int, ...]:
    """Parse whole numbers over zero, separated by commas."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 1:
        raise ValueError(text)
    return found


def main() -> int:
    """Measure, print, write. Status 1 when a subject does not serve the right bytes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_concurrency", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than a minute: 64 connections, short rounds")
    parser.add_argument("--megabytes", type=numbers, help="sizes of the package, separated by commas")
    parser.add_argument("--connections", type=numbers, help="numbers of connections, separated by commas")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="length of a round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    base = QUICK if options.quick else FULL
    plan = Plan(
        options.megabytes or base.megabytes,
        options.connections or base.connections,
        options.rounds or base.rounds,
        options.seconds or base.seconds,
    )
    rows: list[Row] = []
    try:
        for megabytes in plan.megabytes:
            for connections in plan.connections:
                rows += compare(plan, megabytes, connections)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    show(rows)
    if options.json is not None:
        write_rows(rows, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
