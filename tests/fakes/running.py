"""The fakes as running processes, with calls for tests. Made by the fixture `fakes`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx

from tests.support.processes import Process, Spawner, free_port

if TYPE_CHECKING:
    from types import TracebackType

QUICK_GATE = {"node_timeout": 30.0, "gate_check": 0.2, "gate_settle": 0.1, "gate_limit": 20.0}
"""Short intervals, for tests that only need a gate."""


class RunningMaster:
    """A deployed master as a process. Calls are blocking and short."""

    def __init__(self, factory: FakeFactory, packages: Path, port: int, arguments: list[str]) -> None:
        self._factory = factory
        self.packages = packages
        self.port = port
        self._arguments = arguments
        self.process = self._run()

    def _run(self) -> Process:
        process = self._factory.spawn.python(
            "-m",
            "tests.fakes.legacy_master",
            "--packages",
            self.packages,
            "--port",
            str(self.port),
            *self._arguments,
        )
        self.port = int(process.wait_line(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        return process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _control(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self._factory.client.request(method, f"{self.url}/_control/{path}", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def start(self, meeting_id: str) -> dict[str, Any]:
        """Build the package and put the meeting in progress; return `digest` and `size`."""
        return self._control("POST", f"meetings/{quote(meeting_id, safe='')}/start")

    def restart(self, meeting_id: str) -> dict[str, Any]:
        """End and start again without a poll between: same id, new package (the same source zipped again)."""
        return self._control("POST", f"meetings/{quote(meeting_id, safe='')}/restart")

    def end(self, meeting_id: str) -> dict[str, Any]:
        """End a meeting."""
        return self._control("POST", f"meetings/{quote(meeting_id, safe='')}/end")

    def behave(self, **changes: Any) -> dict[str, Any]:
        """Change the behaviour: see `Behaviour` in master_state.py for the fields."""
        return self._control("POST", "behaviour", changes)

    def state(self) -> dict[str, Any]:
        """Return counters, token, nodes, meetings (with their `gate`) and behaviour."""
        return self._control("GET", "state")

    def reset(self) -> None:
        """Reset all counters."""
        self._control("POST", "reset")

    def gate_opened(self, meeting_id: str) -> bool:
        """Return whether the token has changed for this start of the meeting."""
        return bool(self.state()["meetings"][meeting_id]["gate"].get("opened"))

    def direct_url(self, meeting_id: str) -> str:
        """Return the URL from which nodes fetch the package."""
        return f"{self.url}/api/v1/meetings/{quote(meeting_id, safe='')}/download-package-direct"

    def kill(self) -> None:
        """Send SIGKILL: the port then refuses connections."""
        self.process.kill()

    def run_again(self, *started: str) -> None:
        """Restart a killed master on the same port, without nodes; `started` are in progress at once."""
        self._arguments = [
            *self._arguments,
            *(part for meeting_id in started for part in ("--start", meeting_id)),
        ]
        self.process = self._run()


class RunningNode:
    """A deployed node as a process."""

    def __init__(self, process: Process, port: int, storage: Path) -> None:
        self.process = process
        self.port = port
        self.storage = storage

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


class FakeFactory:
    """Starts fakes, and ends them."""

    def __init__(self, spawn: Spawner) -> None:
        self.spawn = spawn
        # No TLS here; building a verifying context for each client takes longer than the calls.
        self.client = httpx.Client(verify=False, trust_env=False, timeout=30)
        self._work = tempfile.TemporaryDirectory(prefix="trionode-fakes-")

    @property
    def folder(self) -> Path:
        """A folder that is removed after the test."""
        return Path(self._work.name)

    def master(
        self,
        packages: Path,
        *,
        started: tuple[str, ...] = (),
        port: int = 0,
        intervals: dict[str, float] | None = None,
        **behaviour: Any,
    ) -> RunningMaster:
        """Run a deployed master over a folder of `<quoted id>.zip`.

        `started` are in progress from the beginning, with their gates. `intervals` default to `QUICK_GATE`; pass `{}`
        for the deployed ones. All other arguments are fields of `Behaviour`.
        """
        arguments = ["--work", str(self.folder)]
        for name, seconds in (QUICK_GATE if intervals is None else intervals).items():
            arguments += [f"--{name.replace('_', '-')}", str(seconds)]
        for meeting_id in started:
            arguments += ["--start", meeting_id]
        master = RunningMaster(self, packages, port, arguments)
        if behaviour:
            master.behave(**behaviour)
        return master

    def node(
        self,
        master_url: str,
        *,
        interval: float = 0.2,
        port: int = 0,
        storage: Path | None = None,
        node_id: str = "",
    ) -> RunningNode:
        """Run a deployed node; `interval` is that of syncs and heartbeats, in seconds (deployed: 10)."""
        port = port or free_port()
        storage = storage or self.folder / f"legacy-node-{port}"
        process = self.spawn.python(
            "-m",
            "tests.fakes.legacy_node",
            "--main-server",
            master_url,
            "--port",
            str(port),
            "--storage-path",
            storage,
            "--interval",
            str(interval),
            "--node-id",
            node_id or f"legacy-{port}",
        )
        process.wait_port(port)
        return RunningNode(process, port, storage)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.client.close()
        self.spawn.clean_up()
        self._work.cleanup()
