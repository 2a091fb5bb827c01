"""Common parts of all benchmarks: servers as processes, the client, rows of figures, their table."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from blake3 import blake3
from rich.console import Console
from rich.table import Table

from benchmarks.client import family

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]

T = TypeVar("T")

START_SECONDS = 30.0
STOP_SECONDS = 10.0

CLIENT_BUSY_PERCENT = 90.0
"""A client that uses more of its core than this may limit the result."""


class BenchmarkError(Exception):
    """The figures cannot be measured, or would be invalid."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: work, subject, metric, and the median of the rounds."""

    work: str
    subject: str
    metric: str
    value: float
    unit: str


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server as a process in its own session. A context manager that ends it."""

    def __init__(
        self,
        name: str,
        port: int,
        command: Sequence[str | Path],
        log: Path,
        *,
        tls: bool = False,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._tls = tls
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd or ROOT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the first process."""
        return self._process.pid

    def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
        """GET `path`; return status, headers with names in lower case, and the BLAKE3 digest of the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        if self._tls:
            # The certificate is self-signed.
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=START_SECONDS, context=context)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            hasher = blake3()
            while part := answer.read(1 << 20):
                hasher.update(part)
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, headers, hasher.hexdigest()

    def wait_digest(self, path: str, digest: str) -> None:
        """Wait until a GET of `path` returns the package `digest`. Raises `BenchmarkError`."""
        deadline = time.monotonic() + START_SECONDS
        seen = "no answer"
        while time.monotonic() < deadline:
            if (status := self._process.poll()) is not None:
                seen = f"ended with status {status}"
                break
            with contextlib.suppress(OSError, http.client.HTTPException):
                code, _, found = self.get(path)
                if code == http.client.OK and found == digest:
                    return
                seen = f"status {code}, digest {found}"
            time.sleep(0.05)
        raise BenchmarkError(
            f"{self.name} does not serve {path}: {seen}\n{self.log.read_text(errors='replace')[-3000:]}"
        )

    def wait_up(self) -> None:
        """Wait until the port accepts connections. Raises `BenchmarkError`."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise BenchmarkError(f"{self.name} does not listen:\n{self.log.read_text(errors='replace')[-3000:]}")

    def processes(self) -> int:
        """Return the number of its processes."""
        return len(family(self.pid))

    def peak_bytes(self) -> int:
        """Return the sum of the peak resident memory of all its processes (shared pages count for each)."""
        total = 0
        for pid in family(self.pid):
            match = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            total += int(match[1]) * 1024 if match else 0
        return total

    def proportional_bytes(self) -> int:
        """Return the memory of all its processes now, shared pages counted once."""
        total = 0
        for pid in family(self.pid):
            with contextlib.suppress(OSError):  # it has ended
                found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
                total += int(found[1]) * 1024 if found else 0
        return total

    def end(self) -> None:
        """Send SIGTERM without waiting, so that several servers end at the same time."""
        self._process.send_signal(signal.SIGTERM)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Send SIGTERM, wait, then SIGKILL the rest of its session."""
        self.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def quantile(values: Sequence[float], share: float) -> float:
    """Return the quantile `share` of the values (nearest rank); 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def measure(
    server: Server, path: str, size: int, connections: int, seconds: float, *flags: str, port: int = 0
) -> dict[str, Any]:
    """Run the client in its own process against `server`, or against `port`, where a proxy listens.

    Raises `BenchmarkError` with the client's output.
    """
    command = [sys.executable, "-m", "benchmarks.client", "--port", str(port or server.port), "--path", path]
    command += ["--size", str(size), "--connections", str(connections), "--seconds", str(seconds)]
    command += ["--server-pid", str(server.pid), *flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if ended.returncode:
        raise BenchmarkError(f"{server.name}: {ended.stderr.strip()}\n{server.log.read_text(errors='replace')[-3000:]}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def in_turn(subjects: Sequence[T], number: int) -> list[T]:
    """Return the order of round `number`, rotated so that each subject follows different ones."""
    begin = number % len(subjects)
    return [*subjects[begin:], *subjects[:begin]]


def ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the rounds' ratios.

    The two figures of a round are measured seconds apart, so a slower machine affects both.
    """
    return statistics.median(own / max(other, 1e-9) for own, other in zip(values, others, strict=True))


def show(rows: Sequence[Row]) -> None:
    """Print a table for each work, with subjects as columns and the ratios below."""
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=110)
    for work in dict.fromkeys(row.work for row in rows):
        here = [row for row in rows if row.work == work]
        figures = [row for row in here if row.unit != "times"]
        subjects = list(dict.fromkeys(row.subject for row in figures))
        table = Table(title=work, title_justify="left", title_style="bold", header_style="bold")
        table.add_column("")
        for subject in subjects:
            table.add_column(subject, justify="right")
        for metric, unit in dict.fromkeys((row.metric, row.unit) for row in figures):
            values = {row.subject: row.value for row in figures if row.metric == metric}
            table.add_row(f"{metric}, {unit}", *(spell(values.get(subject)) for subject in subjects))
        console.print(table)
        for row in here:
            if row.unit == "times":
                console.print(f"  {row.subject}: [bold]{row.value:.2f}[/] times the {row.metric}", soft_wrap=True)
        if any(row.metric == "client CPU" and row.value > CLIENT_BUSY_PERCENT for row in here):
            console.print("  [red]The client was at its limit: the fastest figures are too low.[/]")
        console.print()


def spell(value: float | None) -> str:
    """Format a figure with three significant digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
