"""What every benchmark needs: servers as processes, the client, rows of figures, a table of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from blake3 import blake3
from rich.console import Console
from rich.table import Table

from benchmarks.client import family

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]

START_SECONDS = 30.0
STOP_SECONDS = 10.0

CLIENT_BUSY_PERCENT = 90.0
"""A client that uses more of its core than this may be what is measured."""


class BenchmarkError(Exception):
    """The figures cannot be had, or would be worthless."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what was done, by whom, what was measured, and the median of the rounds."""

    work: str
    subject: str
    metric: str
    value: float
    unit: str


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write rows as a JSON array of objects with the keys of `Row`."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server as a process, in a session of its own. A context manager: at the end of the block it is gone."""

    def __init__(self, name: str, port: int, command: Sequence[str | Path], log: Path) -> None:
        self.name = name
        self.port = port
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the first process."""
        return self._process.pid

    def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
        """Ask for `path`; return status, headers with names in lower case, and the BLAKE3 digest of the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            hasher = blake3()
            while part := answer.read(1 << 20):
                hasher.update(part)
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, headers, hasher.hexdigest()

    def wait_digest(self, path: str, digest: str) -> None:
        """Wait until a GET of `path` gives exactly the package `digest`. Raises `BenchmarkError`."""
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

    def peak_bytes(self) -> int:
        """Return the sum of the peak resident memory of all its processes (pages they share count for each)."""
        total = 0
        for pid in family(self.pid):
            match = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            total += int(match[1]) * 1024 if match else 0
        return total

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """SIGTERM, wait, then SIGKILL what is left of its session."""
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@dataclass(slots=True)
class Rounds:
    """What the client measured for one subject and one work, a value for each round."""

    bytes_per_second: list[float] = field(default_factory=list)
    cpu_per_gigabyte: list[float] = field(default_factory=list)
    client_share: list[float] = field(default_factory=list)
    first_byte: list[float] = field(default_factory=list)
    finished: int = 0
    peak_bytes: int = 0

    def add(self, found: dict[str, Any]) -> None:
        """Take in what one run of the client printed."""
        self.bytes_per_second.append(found["bytes"] / found["seconds"])
        self.cpu_per_gigabyte.append(found["server_cpu"] / max(found["bytes"], 1) * 1e9)
        self.client_share.append(found["client_cpu"] / found["seconds"])
        self.first_byte += found["first_byte"]
        self.finished += found["finished"]

    def rows(self, work: str, subject: str, size: int) -> list[Row]:
        """Return the figures; medians of the rounds, quantiles over the requests of all rounds."""
        rate = statistics.median(self.bytes_per_second)
        values = [
            ("throughput", rate / 1e6, "MB/s"),
            ("requests", rate / size, "1/s"),
            ("first byte p50", quantile(self.first_byte, 0.5) * 1e3, "ms"),
            ("first byte p99", quantile(self.first_byte, 0.99) * 1e3, "ms"),
            ("server CPU", statistics.median(self.cpu_per_gigabyte), "s/GB"),
            ("peak memory", self.peak_bytes / 1e6, "MB"),
            ("client CPU", statistics.median(self.client_share) * 100, "% of a core"),
        ]
        return [Row(work, subject, metric, value, unit) for metric, value, unit in values]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value at or below which `share` of the values lie (nearest rank); 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def measure(server: Server, path: str, size: int, connections: int, seconds: float) -> dict[str, Any]:
    """Run the client in a process of its own against `server`. Raises `BenchmarkError` with what it said."""
    command = [sys.executable, "-m", "benchmarks.client", "--port", str(server.port), "--path", path]
    command += ["--size", str(size), "--connections", str(connections), "--seconds", str(seconds)]
    command += ["--server-pid", str(server.pid)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if ended.returncode:
        raise BenchmarkError(f"{server.name}: {ended.stderr.strip()}\n{server.log.read_text(errors='replace')[-3000:]}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def nginx(folder: Path, files: Path) -> Server | None:
    """Run nginx, tuned for large static files, over `files`; None when it is not installed."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        return None
    port = free_port()
    config = folder / "nginx.conf"
    # As root its workers would become another user, who may not read a temporary folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(NGINX.format(user=user, folder=folder, files=files, port=port), encoding="utf-8")
    return Server(
        "nginx", port, [program, "-p", folder, "-e", folder / "nginx-error.log", "-c", config], folder / "nginx.log"
    )


NGINX = """\
{user}
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  types {{ application/zip zip; }}
  access_log off;
  sendfile on;
  tcp_nopush on;
  open_file_cache max=1000 inactive=60s;
  open_file_cache_valid 60s;
  keepalive_requests 1000000;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    root {files};
  }}
}}
"""


def ratios(rounds: Mapping[str, Rounds], work: str, subject: str) -> list[Row]:
    """Return how many times the throughput of every other subject `subject` has: the median of the rounds' ratios.

    The two figures of a round were taken seconds apart, so what slows the machine for longer slows both.
    """
    own = rounds[subject].bytes_per_second
    return [
        Row(
            work,
            f"{subject} / {other}",
            "throughput",
            statistics.median(a / b for a, b in zip(own, found.bytes_per_second, strict=True)),
            "times",
        )
        for other, found in rounds.items()
        if other != subject
    ]


def show(rows: Sequence[Row]) -> None:
    """Print a table for each work, subjects as columns, and the ratios below."""
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
                console.print(f"  {row.subject}: [bold]{row.value:.2f}[/] times the {row.metric}")
        if any(row.metric == "client CPU" and row.value > CLIENT_BUSY_PERCENT for row in here):
            console.print("  [red]The client was at its limit: the fastest figures are too low.[/]")
        console.print()


def spell(value: float | None) -> str:
    """Spell a figure with three digits that mean something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
