"""A store with very many versions: start, leases, and evictions during reads and commits.

`benchmarks.store` runs `python -m benchmarks.many_versions start FOLDER` in a new process, since the cost of a start
depends on the modules already loaded.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import ROOT, BenchmarkError, Row, quantile
from benchmarks.goals import Figure, at_most
from store import Chunk, Digest, Manifest, Store

START_VERSIONS = 2_000
CHUNKS_EACH = 50
CHUNK_BYTES = 2_000
"""Small chunks, so that 100,000 are made in seconds: the cost of a start depends only on their number."""

EVICTED_CHUNKS = 10
KEPT_VERSIONS = 20
COMMITTED_CHUNKS = 10

LEASES = 20_000
READ_BYTES = 64 * 1024
PAUSE_SECONDS = 0.0005
"""Pause between two reads, so that the reader does not load the processor itself."""


def make_version(source: random.Random, chunks: int) -> tuple[Manifest, bytes]:
    """Return the manifest and bytes of a version of `chunks` random chunks."""
    data = source.randbytes(chunks * CHUNK_BYTES)
    parts = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    pieces = tuple(Chunk(number * CHUNK_BYTES, CHUNK_BYTES, Digest.of(part)) for number, part in enumerate(parts))
    return Manifest(Digest.of(data), len(data), pieces), data


def lay_out(folder: Path, count: int, chunks: int, seed: int) -> list[Digest]:
    """Write `count` versions into a storage folder in the store's layout, without syncing each."""
    with Store.open(folder):
        pass
    source = random.Random(seed)
    digests: list[Digest] = []
    for _ in range(count):
        manifest, data = make_version(source, chunks)
        (folder / "packages" / f"{manifest.digest}.zip").write_bytes(data)
        (folder / "packages" / f"{manifest.digest}.json").write_bytes(manifest.to_json())
        digests.append(manifest.digest)
    os.sync()
    return digests


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


# -- start ----------------------------------------------------------------------------------------------------------


def start_once(folder: Path) -> dict[str, float]:
    """Open a storage folder, read a first verified byte, then build the index."""
    begin = time.perf_counter()
    with Store.open(folder) as store:
        digest = store.versions()[0].digest
        store.verify(digest)
        with store.lease(digest) as lease:
            first = os.pread(lease.fileno(), 1, 0)
        served = time.perf_counter()
        if len(first) != 1:
            raise BenchmarkError("no byte was read")
        before = resident_bytes()
        indexing = time.perf_counter()
        store.find(digest)
        return {
            "first_byte": served - begin,
            "index": time.perf_counter() - indexing,
            "index_bytes": resident_bytes() - before,
        }


def measure_start(folder: Path, rounds: int) -> list[Figure]:
    """Measure starts on a folder of 2,000 versions with 100,000 chunks."""
    lay_out(folder, START_VERSIONS, CHUNKS_EACH, seed=1)
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        command = [sys.executable, "-m", "benchmarks.many_versions", "start", str(folder)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise BenchmarkError(f"no start:\n{ended.stderr[-3000:]}")
        found.append(json.loads(ended.stdout))
    work = f"start, {START_VERSIONS:,} versions, {START_VERSIONS * CHUNKS_EACH:,} chunks"

    def middle(name: str) -> float:
        return statistics.median(one[name] for one in found)

    return [
        Figure(Row(work, "store", "open to first verified byte", middle("first_byte"), "s"), at_most(0.3)),
        Figure(Row(work, "store", "building the index", middle("index"), "s"), at_most(1.5)),
        Figure(Row(work, "store", "memory of the index", middle("index_bytes") / 2**20, "MiB"), at_most(64)),
    ]


# -- leases ---------------------------------------------------------------------------------------------------------


def measure_lease(folder: Path) -> list[Figure]:
    """Measure taking a lease on a trusted version, checking its trust, and closing it."""
    digest = lay_out(folder, 1, CHUNKS_EACH, seed=2)[0]
    taken: list[float] = []
    with Store.open(folder) as store:
        store.verify(digest)
        for _ in range(LEASES):
            begin = time.perf_counter()
            with store.lease(digest) as lease:
                trusted = lease.trusted
            taken.append(time.perf_counter() - begin)
            if not trusted:
                raise BenchmarkError("the version is not trusted")
    work = "lease on a trusted version"
    return [
        Figure(Row(work, "store", "taken, asked, given back", statistics.median(taken) * 1e6, "µs"), at_most(10)),
        Figure(Row(work, "store", "the same, p99", quantile(taken, 0.99) * 1e6, "µs")),
    ]


# -- eviction -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Meanwhile:
    """Latencies of reads and commits during evictions, in seconds, and their failures."""

    reads: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)


def read_on(store: Store, kept: list[Digest], found: Meanwhile, stop: threading.Event) -> None:
    """Read from versions that stay, one after the other, as downloads do."""
    buffer = memoryview(bytearray(READ_BYTES))
    try:
        for digest in itertools.cycle(kept):
            if stop.wait(PAUSE_SECONDS):
                return
            begin = time.perf_counter()
            with store.lease(digest) as lease:
                os.preadv(lease.fileno(), [buffer], 0)
            found.reads.append(time.perf_counter() - begin)
    except Exception as error:  # noqa: BLE001 - raised by the thread that waits for this one
        found.failures.append(error)


def commit_on(store: Store, source: random.Random, found: Meanwhile, stop: threading.Event) -> None:
    """Store one small version after the other."""
    try:
        while not stop.wait(PAUSE_SECONDS):
            found.commits.append(commit_one(store, *make_version(source, COMMITTED_CHUNKS)))
    except Exception as error:  # noqa: BLE001 - as above
        found.failures.append(error)


def commit_one(store: Store, manifest: Manifest, data: bytes) -> float:
    """Fill a version and return how long its commit took."""
    fill = store.begin_fill(manifest)
    for chunk in fill.missing():
        fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
    begin = time.perf_counter()
    fill.commit()
    taken = time.perf_counter() - begin
    fill.close()
    return taken


def measure_eviction(folder: Path, versions: int) -> list[Figure]:
    """Evict versions, and measure reads and commits meanwhile."""
    digests = lay_out(folder, versions + KEPT_VERSIONS, EVICTED_CHUNKS, seed=3)
    evicted, kept = digests[:versions], digests[versions:]
    source = random.Random(4)
    found = Meanwhile()
    stop = threading.Event()
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(folder))
        alone = [commit_one(store, *make_version(source, COMMITTED_CHUNKS)) for _ in range(20)]
        threads = [
            threading.Thread(target=read_on, args=(store, kept, found, stop)),
            threading.Thread(target=commit_on, args=(store, source, found, stop)),
        ]
        for thread in threads:
            thread.start()
        begin = time.perf_counter()
        for digest in evicted:
            store.remove(digest)
        taken = time.perf_counter() - begin
        stop.set()
        for thread in threads:
            thread.join()
    if found.failures:
        raise BenchmarkError(f"others failed during the eviction: {found.failures[0]!r}")
    work = f"eviction of {versions:,} versions"
    return [
        Figure(Row(work, "eviction", "time", taken, "s")),
        Figure(Row(work, "reads meanwhile", "p99", quantile(found.reads, 0.99) * 1e3, "ms"), at_most(5)),
        Figure(Row(work, "reads meanwhile", "longest", max(found.reads, default=0.0) * 1e3, "ms")),
        Figure(Row(work, "commits meanwhile", "longest", max(found.commits, default=0.0) * 1e3, "ms"), at_most(150)),
        Figure(Row(work, "commits meanwhile", "median", statistics.median(found.commits or [0.0]) * 1e3, "ms")),
        Figure(Row(work, "commits meanwhile", "number", float(len(found.commits)), "commits")),
        Figure(Row(work, "commits before", "median", statistics.median(alone) * 1e3, "ms")),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] != ["start"]:
        raise SystemExit(__doc__)
    print(json.dumps(start_once(Path(sys.argv[2]))))
