"""Real processes for tests: started, waited for, and ended by their id, at the latest with the test."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.waiting import eventually_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]

START_SECONDS = 20.0
"""Time limit for a Python server to listen, on a machine with two busy cores."""


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1. Rarely, another process uses it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_open(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether something accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def children(pid: int) -> list[int]:
    """Return the ids of the living descendants of a process, without itself."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def memory_of(pid: int, field: str) -> int:
    """Return a size field of /proc/PID/status (VmHWM: peak resident; VmRSS: resident now) in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None, f"no {field} for process {pid}: it has ended"
    return int(match[1]) * 1024


def peak_memory(pid: int) -> int:
    """Return the peak resident memory of a process in bytes (VmHWM)."""
    return memory_of(pid, "VmHWM")


class Process:
    """A process whose output (both streams) goes to a file. Made by `running` or the `spawn` fixture."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None, cwd: Path) -> None:
        self.command = tuple(command)
        self.log_path = log
        with log.open("wb") as output:
            # Its own session, so that the end of the test ends its children as well.
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, None while it runs; minus the number of the signal that ended it."""
        return self._popen.poll()

    def log(self) -> str:
        """Return the output of the process so far."""
        return self.log_path.read_text(errors="replace")

    def wait_line(self, pattern: str, *, within: float = START_SECONDS) -> re.Match[str]:
        """Wait until a whole line of the log matches `pattern` (re.search) and return the first match."""

        def found() -> re.Match[str] | None:
            ended = self.returncode is not None
            lines = self.log().splitlines(keepends=True)
            for line in lines:
                if (match := re.search(pattern, line.rstrip("\n"))) and (line.endswith("\n") or ended):
                    return match
            if ended:
                raise RuntimeError(f"{self.command} ended with {self.returncode} before {pattern!r}:\n{self.log()}")
            return None

        try:
            return eventually_blocking(found, within=within, what=f"a line {pattern!r} of {self.command}")
        except AssertionError as error:
            error.add_note(self.log())
            raise

    def wait_port(self, port: int, *, within: float = START_SECONDS) -> None:
        """Wait until something accepts connections on `port`."""

        def found() -> bool:
            if self.returncode is not None:
                raise RuntimeError(f"{self.command} ended with {self.returncode}:\n{self.log()}")
            return port_open(port)

        try:
            eventually_blocking(found, within=within, what=f"port {port} of {self.command}")
        except AssertionError as error:
            error.add_note(self.log())
            raise

    def wait(self, *, within: float = 10.0) -> int:
        """Wait for the end and return the exit status; `subprocess.TimeoutExpired` has the log as a note."""
        try:
            return self._popen.wait(within)
        except subprocess.TimeoutExpired as error:
            error.add_note(self.log())
            raise

    def send_signal(self, number: int) -> None:
        """Send a signal to the process itself, not to its children."""
        self._popen.send_signal(number)

    def stop(self, *, within: float = 10.0) -> int:
        """Send SIGTERM and wait; return the exit status."""
        self.send_signal(signal.SIGTERM)
        return self.wait(within=within)

    def kill(self) -> None:
        """Send SIGKILL and wait. Does nothing if the process has ended."""
        self._popen.kill()
        self._popen.wait()

    def clean_up(self) -> None:
        """Send SIGKILL to the process and its children (the group of its session)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def peak_memory(self) -> int:
        """Return the peak resident memory of the process and its children together, in bytes."""
        return sum(map(peak_memory, [self.pid, *children(self.pid)]))


class Spawner:
    """Starts processes, and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []

    def __call__(
        self, *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT, name: str = ""
    ) -> Process:
        """Start `command` in `cwd` (by default the project root); `env` is added to ours."""
        log = self.folder / f"{len(self.processes):02d}-{name or Path(str(command[0])).name}.log"
        process = Process([str(part) for part in command], log, env, cwd)
        self.processes.append(process)
        return process

    def python(self, *arguments: str | Path, env: Mapping[str, str] | None = None, name: str = "") -> Process:
        """Start this interpreter with `arguments` (e.g. "-m", "trionode", ...)."""
        return self(sys.executable, *arguments, env=env, name=name or str(arguments[1]))

    def clean_up(self) -> None:
        """End all processes."""
        for process in reversed(self.processes):
            process.clean_up()


@contextlib.contextmanager
def spawner() -> Iterator[Spawner]:
    """Yield a `Spawner` whose processes end with the block."""
    with tempfile.TemporaryDirectory(prefix="trionode-test-") as folder:
        spawn = Spawner(Path(folder))
        try:
            yield spawn
        finally:
            spawn.clean_up()
