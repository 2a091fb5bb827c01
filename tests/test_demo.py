"""`make demo` ends with status 0, and leaves neither process nor folder."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.locales import ASCII
from tests.support.processes import ROOT
from tests.support.waiting import eventually_blocking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.processes import Process, Spawner

DEMO_SECONDS = 120.0
"""Far more than it takes (20 s), for a busy machine."""


def start(spawn: Spawner, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
    """Start the same processes as `make demo`, with their files in `folder`."""
    variables = {"TMPDIR": str(folder), "COLUMNS": "200", **(env or {})}
    return spawn.python("-m", "examples.demo", *arguments, env=variables, name="demo")


def users_of(folder: Path) -> list[str]:
    """Return the command lines of the processes with `folder` in their environment."""
    marker = f"TMPDIR={folder}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended meanwhile, or belongs to another user
    return found


def left_behind(folder: Path) -> list[str]:
    return [*users_of(folder), *(path.name for path in folder.iterdir())]


def test_the_demo_ends_well_and_leaves_nothing(spawn: Spawner, tmp_path: Path) -> None:
    demo = start(spawn, tmp_path)
    eventually_blocking(lambda: len(users_of(tmp_path)) == 5, within=DEMO_SECONDS, what="a master and three nodes")
    assert demo.wait(within=DEMO_SECONDS) == 0, demo.log()
    assert "120 of 120 downloads have the right digest" in demo.log()
    assert re.search(r"the master sent 1\.0\d copies", demo.log()), demo.log()
    assert "kill -9" in demo.log()
    assert left_behind(tmp_path) == []


def test_the_demo_can_stay_up_and_ends_with_ctrl_c(spawn: Spawner, tmp_path: Path) -> None:
    demo = start(spawn, tmp_path, "--keep", env=ASCII)  # a terminal without the characters that it prints
    demo.wait_line(r"Commands to try", within=DEMO_SECONDS)
    shown = demo.wait_line(r"\$ (curl -L .*)")[1]
    done = subprocess.run(["sh", "-c", shown], cwd=tmp_path, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "board.zip").read_bytes().startswith(b"PK")
    (tmp_path / "board.zip").unlink()
    demo.send_signal(signal.SIGINT)
    assert demo.wait(within=30) == 0, "every download was right, and Ctrl-C is no error"
    assert left_behind(tmp_path) == []


def test_make_runs_the_demo_and_the_tests() -> None:
    """The two commands as make runs them; the rest of a first run is the installation."""
    for target, last in {
        "demo": r"\S+/python -m examples\.demo",
        "test": r"\S+/python -m pytest .*",
        "demo KEEP=1": r"\S+/python -m examples\.demo --keep",
    }.items():
        done = subprocess.run(
            ["make", "--no-print-directory", "--dry-run", *target.split()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert re.fullmatch(last, done.stdout.strip().splitlines()[-1].strip())
