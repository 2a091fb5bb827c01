"""Servers as separate processes on free ports, which end with the demo."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

STOP_SECONDS = 6.0
"""Time limit for a server to end before it is killed."""


TAIL_LINES = 15


class DemoError(Exception):
    """The demo cannot continue; the message is the reason, for display."""


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> list[str]:
    """Return the command of one of the project's two programs, installed or from the working tree."""
    script = Path(sys.executable).with_name(name)
    return [str(script)] if script.exists() else [sys.executable, "-m", name.replace("-", "_")]


class Server:
    """A server process with its output in a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.command = tuple(command)
        self.log = log
        with log.open("wb") as output:
            # In its own session: Ctrl-C ends the demo, which then ends its servers.
            self._process = subprocess.Popen(
                [*program(command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise `DemoError` with the last lines of output if the process has ended."""
        if (status := self._process.poll()) is not None:
            raise DemoError(f"{self.name} ended with status {status}; its last lines:\n{self.tail()}")

    def tail(self) -> str:
        """Return the last lines of output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def kill(self) -> None:
        """Send SIGKILL and wait for the process."""
        self._process.kill()
        self._process.wait()

    def ask_to_end(self) -> None:
        """Send SIGTERM. Does nothing if the process has ended."""
        self._process.terminate()

    async def wait_end(self) -> None:
        """Wait until the process has ended."""
        while self._process.poll() is None:
            await trio.sleep(0.02)

    def sweep(self) -> None:
        """Kill the process and its children, if they still run."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Servers:
    """All servers of a demo. A context manager that ends them on every exit."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._servers: list[Server] = []

    def start(self, name: str, *command: str) -> Server:
        """Start `command`, whose program is one of this environment's scripts."""
        server = Server(name, command, self._logs / f"{name}.log")
        self._servers.append(server)
        return server

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Send SIGTERM to every server, nodes first, and kill those that still run after `STOP_SECONDS`."""
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_SECONDS):
                for server in reversed(self._servers):
                    server.ask_to_end()
                for server in reversed(self._servers):
                    await server.wait_end()
        finally:
            for server in self._servers:
                server.sweep()
