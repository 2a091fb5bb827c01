"""The cost of the store relative to that of the disk and the digest. See README.md for the method.

`python -m benchmarks.store [--quick] [--only WORD] [--rounds N] [--folder FOLDER] [--json FILE]`
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from benchmarks import many_versions, runs, wire
from benchmarks.common import BenchmarkError, Row
from benchmarks.goals import Figure, at_least, at_most, show_figures
from examples.demo.packages import FIRST_BUILD, Package, make_documents, make_package, rebuild
from store import Chunk, Manifest, Store, split_file
from store.reading import split_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

READ_BYTES = 1024 * 1024
"""Read size of plain hashing: the fastest of 64 KiB to 16 MiB here."""

APPEND_BYTES = 1024 * 1024
"""Size of the data passed to a stream in one call."""

PROBE_SECONDS = 0.06
NOISE_SHARE = 0.25
"""Share of the processors that others may use during a turn, and before it. Kernel threads, which write for `sync`,
count as others."""

CP_SYNC = 'start=$EPOCHREALTIME; cp "$1" "$2"; sync "$2"; end=$EPOCHREALTIME; echo "$start $end"'
"""`cp` and `sync`, timed inside the shell, so that starting it does not count."""

Work = Callable[[], float]
"""Does a piece of work once and returns its seconds, without those of its preparation."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    megabytes: int
    versions: int
    rebuilds: int
    patience: float  # seconds a turn may wait for a quiet machine


FULL = Plan(rounds=9, megabytes=256, versions=1_000, rebuilds=10, patience=1.0)
QUICK = Plan(rounds=3, megabytes=256, versions=200, rebuilds=2, patience=0.0)


def alternate(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Do every work once a round, in rotating order; return the seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        order = [*works][number % len(works) :] + [*works][: number % len(works)]
        for name in order:
            seconds[name].append(quiet.turn(works[name]))
    return seconds


class Quiet:
    """Starts works, if needed again, while the machine has little other load.

    Other load slows a work that uses both cores more than it does `cp`. `patience` is how many seconds a turn may wait
    for it to end; `noisy` counts the turns measured under load.
    """

    def __init__(self) -> None:
        self.patience = 1.0
        self.noisy = 0

    def turn(self, work: Work) -> float:
        """Do a work and return its seconds. The writes of the one before are synced first."""
        deadline = time.monotonic() + self.patience
        while True:
            os.sync()
            self._wait(deadline)
            before = self._busy()
            begin = time.monotonic()
            seconds = work()
            # The preparation and clean-up of a work count here: mostly the same kind of work.
            others = (self._busy() - before) / (time.monotonic() - begin) / (os.cpu_count() or 1)
            if others <= NOISE_SHARE:
                return seconds
            if time.monotonic() > deadline:
                self.noisy += 1
                return seconds

    def _wait(self, deadline: float) -> None:
        """Wait until others use little of the processors for `PROBE_SECONDS`."""
        while time.monotonic() < deadline:
            before, begin = self._busy(), time.monotonic()
            time.sleep(PROBE_SECONDS)
            if (self._busy() - before) / (time.monotonic() - begin) <= NOISE_SHARE:
                return

    def _busy(self) -> float:
        """Return the processor seconds of others, kernel threads included."""
        ticks = [int(field) for field in Path("/proc/stat").read_text().split(maxsplit=11)[1:9]]
        own = os.times()
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return busy - own.user - own.system - own.children_user - own.children_system


quiet = Quiet()


def speed_ratio(seconds: Mapping[str, list[float]], subject: str, peer: str) -> float:
    """Return the speed of the subject relative to the peer: the median of the rounds' ratios."""
    return statistics.median(b / a for a, b in zip(seconds[subject], seconds[peer], strict=True))


def rate(size: int, seconds: list[float]) -> float:
    """Return the median in MB/s."""
    return size / statistics.median(seconds) / 1e6


@contextmanager
def clock() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds since the block was entered, until its end."""
    start = time.perf_counter()
    end: float | None = None
    try:
        yield lambda: (time.perf_counter() if end is None else end) - start
    finally:
        end = time.perf_counter()


def cp_sync(source: Path, target: Path) -> float:
    """Copy a file and sync the copy; return the seconds, and remove the copy."""
    target.unlink(missing_ok=True)
    ended = subprocess.run(
        ["bash", "-c", CP_SYNC, "cp_sync", source, target], capture_output=True, text=True, check=True
    )
    start, end = ended.stdout.split()
    target.unlink()
    return float(end) - float(start)


# -- commit ---------------------------------------------------------------------------------------------------------


def memory_reader(data: bytes) -> Callable[[memoryview, int], int]:
    """Return a reader of bytes in memory, as `store.reading` expects it."""
    whole = memoryview(data)

    def read_into(view: memoryview, offset: int) -> int:
        part = whole[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    return read_into


def commit_by_stream(data: bytes, folder: Path) -> float:
    """Store a package without a manifest: write, read the whole zip, split, hash, sync, publish."""
    with Store.open(folder) as store:
        view = memoryview(data)
        with clock() as elapsed:
            fill = store.begin_stream("meeting")
            for start in range(0, len(data), APPEND_BYTES):
                fill.append(view[start : start + APPEND_BYTES])
            manifest = fill.commit()
            fill.close()
        store.remove(manifest.digest)
    return elapsed()


def commit_by_fill(data: bytes, folder: Path) -> float:
    """Split and hash a package in memory, then store and verify it chunk by chunk, as from a master with the shim."""
    with Store.open(folder) as store:
        view = memoryview(data)
        with clock() as elapsed:
            manifest = split_bytes(memory_reader(data), len(data))
            fill = store.begin_fill(manifest)
            for chunk in fill.missing():
                fill.write(chunk, view[chunk.offset : chunk.offset + chunk.size])
            fill.commit()
            fill.close()
        store.remove(manifest.digest)
    return elapsed()


def measure_commit(folder: Path, package: Package, work: str, rounds: int, goal: float) -> list[Figure]:
    """Compare both ways into the store with `cp` and `sync` of the same file."""
    data = package.path.read_bytes()
    seconds = alternate(
        {
            "fill": partial(commit_by_fill, data, folder / "store"),
            "stream": partial(commit_by_stream, data, folder / "store"),
            "cp + sync": partial(cp_sync, package.path, folder / "copy.zip"),
        },
        rounds,
    )
    figures = [Figure(Row(work, name, "throughput", rate(len(data), found), "MB/s")) for name, found in seconds.items()]
    for name in ("fill", "stream"):
        ratio = speed_ratio(seconds, name, "cp + sync")
        own = at_least(goal) if name == "fill" else None
        figures.append(Figure(Row(work, f"{name} / cp + sync", "speed", ratio, "times"), own))
    return figures


# -- update ---------------------------------------------------------------------------------------------------------


def update(folder: Path, old: Path, manifest: Manifest, new_bytes: Mapping[Chunk, bytes]) -> float:
    """Store an update beside the old version, from reservation to commit, with the new bytes in memory."""
    shutil.rmtree(folder, ignore_errors=True)
    with Store.open(folder) as store:
        first = store.begin_stream("meeting")
        first.append(old.read_bytes())
        first.commit()
        first.close()
        store.find(manifest.chunks[0].digest)  # build the index, as in a node that has run for a while
        os.sync()
        with clock() as elapsed:
            fill = store.begin_fill(manifest)
            for chunk in fill.missing():
                fill.write(chunk, new_bytes[chunk])
            fill.commit()
            fill.close()
    return elapsed()


def measure_update(folder: Path, package: Package, rounds: int) -> list[Figure]:
    """Compare an update with one new document with `cp` and `sync` of the new version.

    The new document arrives last. Its position in the package decides how much of the whole can be hashed before: half
    on average; with the first document nothing, which is reported as well.
    """
    work = f"update, {package.size / 1e6:.0f} MB, one document new"
    known = {chunk.digest for chunk in split_file(package.path).chunks}
    works: dict[str, Work] = {}
    for name, index in (("update", len(package.documents) // 2), ("update of the first", 0)):
        new = rebuild(
            package, made_at=FIRST_BUILD.replace(hour=11), replaced=(index,), path=folder / f"new-{index}.zip"
        )
        manifest = split_file(new.path)
        data = new.path.read_bytes()
        new_bytes = {c: data[c.offset : c.offset + c.size] for c in manifest.chunks if c.digest not in known}
        works[name] = partial(update, folder / "store", package.path, manifest, new_bytes)
        works["cp + sync"] = partial(cp_sync, new.path, folder / "copy.zip")
    seconds = alternate(works, rounds)
    shutil.rmtree(folder / "store")
    figures = [Figure(Row(work, name, "time", statistics.median(found) * 1e3, "ms")) for name, found in seconds.items()]
    for name, goal in (("update", at_most(1.6)), ("update of the first", None)):
        slower = statistics.median(a / b for a, b in zip(seconds[name], seconds["cp + sync"], strict=True))
        figures.append(Figure(Row(work, f"{name} / cp + sync", "time", slower, "times"), goal))
    return figures


# -- cutting, hashing, verifying ------------------------------------------------------------------------------------


def timed(do: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    with clock() as elapsed:
        do()
    return elapsed()


def measure_cutting(packages: Mapping[str, Package], rounds: int) -> list[Figure]:
    """Split and hash, chunks and whole: bytes in memory, without a disk; and a file in the page cache."""
    figures: list[Figure] = []
    for name, package in packages.items():
        work = f"cut and hash, {name}"
        data = package.path.read_bytes()
        reader = memory_reader(data)
        size = len(data)
        seconds = alternate(
            {
                "from memory": lambda reader=reader, size=size: timed(partial(split_bytes, reader, size)),  # type: ignore[misc]
                "from a file": lambda path=package.path: timed(partial(split_file, path)),  # type: ignore[misc]
                "blake3 of the whole alone": lambda data=data: timed(lambda: blake3(data).digest()),  # type: ignore[misc]
            },
            rounds,
        )
        goal = at_least(2.5) if not figures else None
        for subject, found in seconds.items():
            row = Row(work, subject, "throughput", rate(size, found) / 1e3, "GB/s")
            figures.append(Figure(row, goal if subject == "from memory" else None))
    return figures


def plain_hash(path: Path) -> float:
    """Hash a file with one buffer and one thread."""
    hasher = blake3()
    buffer = memoryview(bytearray(READ_BYTES))
    with clock() as elapsed, path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            hasher.update(buffer[:got])
        hasher.digest()
    return elapsed()


def b3sum(path: Path) -> float:
    """Run the command `name` on a file."""
    with clock() as elapsed:
        subprocess.run(["b3sum", path], capture_output=True, check=True)
    return elapsed()


def measure_verify(folder: Path, package: Package, rounds: int) -> list[Figure]:
    """Compare verifying a version with hashing its file: by `b3sum` if installed, and in plain Python."""
    work = f"verify, {package.size / 1e6:.0f} MB"
    with Store.open(folder / "store") as store:
        fill = store.begin_stream("meeting")
        fill.append(package.path.read_bytes())
        digest = fill.commit().digest
        fill.close()
        path = next((folder / "store" / "packages").glob("*.zip"))
        works: dict[str, Work] = {
            "verify": lambda: timed(partial(store.verify, digest)),
            "plain blake3": partial(plain_hash, path),
        }
        if shutil.which("b3sum"):
            works["b3sum"] = partial(b3sum, path)
        seconds = alternate(works, rounds)
        store.remove(digest)
    figures = [
        Figure(Row(work, name, "throughput", rate(package.size, s) / 1e3, "GB/s")) for name, s in seconds.items()
    ]
    for peer in [*works][1:]:
        row = Row(work, f"verify / {peer}", "speed", speed_ratio(seconds, "verify", peer), "times")
        figures.append(Figure(row, at_least(0.9)))
    return figures


# -- all of it ------------------------------------------------------------------------------------------------------


def sections(plan: Plan, folder: Path) -> dict[str, Callable[[], list[Figure]]]:
    """Return the sections by name."""
    large = partial(build, folder / "large.zip", plan.megabytes // 2, 2_000_000)
    small = partial(build, folder / "small.zip", 2_000, 20_000)
    usual = partial(build, folder / "usual.zip", 40, 2_000_000)
    return {
        "commit": lambda: [
            *measure_commit(folder, large(), f"commit, {plan.megabytes} MB", plan.rounds, 0.9),
            *measure_commit(folder, small(), "commit, 2,000 documents of 20 kB", plan.rounds, 0.7),
        ],
        "update": lambda: measure_update(folder, usual(), plan.rounds),
        "cut": lambda: measure_cutting(
            {f"{plan.megabytes} MB": large(), "2,000 documents of 20 kB": small()}, plan.rounds
        ),
        "verify": lambda: measure_verify(folder, large(), plan.rounds),
        "lease": lambda: many_versions.measure_lease(folder / "lease"),
        "start": lambda: many_versions.measure_start(folder / "start", plan.rounds),
        "evict": lambda: many_versions.measure_eviction(folder / "evict", plan.versions),
        "wire": lambda: [
            *wire.measure(folder / "wire", "40 documents of 2 MB", 40, 2_000_000, plan.rebuilds, at_most(1.03)),
            *wire.measure(folder / "wire", "2,000 documents of 20 kB", 2_000, 20_000, plan.rebuilds, None),
        ],
    }


def build(path: Path, count: int, size: int) -> Package:
    """Return a package of that many documents, made once in a run."""
    documents = make_documents(count, size, seed=path.name)
    if path not in _built:
        _built[path] = make_package(path, documents, level=1)
    return _built[path]


_built: dict[Path, Package] = {}


def main() -> int:
    """Measure, print, write. Return exit status 1 after an error; a missed goal is not one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and versions, less than a minute")
    parser.add_argument("--only", action="append", metavar="WORD", help="only this section; may be repeated")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure")
    parser.add_argument("--patience", type=float, help="seconds a turn may wait for a quiet machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    options = parser.parse_args()
    base = QUICK if options.quick else FULL
    quiet.patience = base.patience if options.patience is None else options.patience
    plan = replace(base, rounds=options.rounds or base.rounds)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="trionode-store-", dir=options.folder) as name:
        found = sections(plan, Path(name))
        wanted = options.only or [*found]
        if unknown := [word for word in wanted if word not in found]:
            parser.error(f"no section {', '.join(unknown)}; there are {', '.join(found)}")
        try:
            for section in wanted:
                figures = found[section]()
                show_figures(section, figures)
                rows += [figure.row for figure in figures]
                if quiet.noisy:
                    print(f"{quiet.noisy} of these turns were measured under other load.\n")
                    quiet.noisy = 0
        except BenchmarkError as error:
            print(error, file=sys.stderr)
            return 1
    if options.json is not None:
        runs.write(runs.Run.here(plan.rounds), rows, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
