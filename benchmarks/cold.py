"""Packages that are not in the page cache: latency of a small request while the disk is read for others."""

from __future__ import annotations

import os
import re
import statistics
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks.bench import Bench, figures, say
from benchmarks.client import family
from benchmarks.common import BenchmarkError, in_turn, quantile
from benchmarks.crowds import wait_once

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.goals import Figure
    from benchmarks.subjects import Subject

COLD = 16
"""Active downloads during the small requests, each at another offset of the file."""

EVICT_SECONDS = 0.25
"""Interval at which pages are dropped. A shorter one would drop read-ahead before it is sent."""


class ColdFile:
    """A context manager with a thread that keeps a file out of the page cache."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._drop_again_and_again)

    def __enter__(self) -> Self:
        """Start dropping the file's pages."""
        self._fd = os.open(self._path, os.O_RDONLY)
        # Only clean pages can be dropped.
        os.fsync(self._fd)
        self._drop()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop dropping pages."""
        self._over.set()
        self._thread.join()
        os.close(self._fd)

    def _drop(self) -> None:
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _drop_again_and_again(self) -> None:
        while not self._over.wait(EVICT_SECONDS):
            self._drop()


def bytes_from_disk(pid: int) -> int:
    """Return the bytes read from a disk by a process and its living descendants."""
    total = 0
    for member in family(pid):
        found = re.search(r"^read_bytes: (\d+)", Path(f"/proc/{member}/io").read_text(), re.MULTILINE)
        total += int(found[1]) if found else 0
    return total


def cold(bench: Bench) -> list[Figure]:
    """Measure the latency of a small request during 16 downloads of a package kept out of the page cache."""
    plan = bench.plan
    package = bench.package(plan.large_megabytes)
    work = f"a small request during {COLD} downloads from disk, {plan.large_megabytes} MB package"
    say(f"{work}: {plan.rounds} rounds of {plan.seconds:g} s ...")
    made: list[Figure] = []
    with bench.subjects(package) as subjects:
        found: dict[str, list[dict[str, Any]]] = {subject.name: [] for subject in subjects}
        for number in range(plan.rounds):
            for subject in in_turn(subjects, number):
                found[subject.name].append(_cold_once(subject, package.size, plan.seconds))
    for name, rounds in found.items():
        kept = [wait for one in rounds for wait in one["kept"]]
        new = [wait for one in rounds for wait in one["new"]]
        made += figures(
            work,
            name,
            ("wait p50", quantile(kept, 0.5) * 1e3, "ms"),
            ("wait p99", quantile(kept, 0.99) * 1e3, "ms"),
            ("longest wait", max(kept, default=0) * 1e3, "ms"),
            ("wait on a new connection p50", quantile(new, 0.5) * 1e3, "ms"),
            ("wait on a new connection p99", quantile(new, 0.99) * 1e3, "ms"),
            ("throughput beside", statistics.median(one["rate"] for one in rounds) / 1e6, "MB/s"),
            ("read from disk", statistics.median(one["disk"] for one in rounds) / 1e6, "MB/s"),
        )
    if not any(one["disk"] for rounds in found.values() for one in rounds):
        say(f"nothing was read from a disk: {bench.folder} is in memory, so the latencies are meaningless (see TMPDIR)")
    return made


def _cold_once(subject: Subject, size: int, seconds: float) -> dict[str, Any]:
    """Measure one turn; return the result of `wait_once` and `disk`, the server's bytes per second from the disk."""
    stored = [path for path in subject.folder.glob("*.zip") if path.stat().st_size == size]
    if len(stored) != 1:
        raise BenchmarkError(f"{subject.name} has {len(stored)} packages of {size} bytes in {subject.folder}")
    before = bytes_from_disk(subject.server.pid)
    with ColdFile(stored[0]):
        found = wait_once(subject, size, seconds, COLD, "--spread")
    return {**found, "disk": (bytes_from_disk(subject.server.pid) - before) / found["seconds"]}
