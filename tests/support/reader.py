"""Runs the code blocks of documents in bash.

`Reader.replaced` makes the only replacements: addresses of a LAN by 127.0.0.1 and a free port, and the folder of
programs by that of this interpreter. Defaults that a test cannot use (all interfaces, port 8001) are overridden in the
environment. Blocks run in a separate folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import httpx

from tests.support.markdown import Block, blocks
from tests.support.nodes import BIN
from tests.support.processes import ROOT, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Process, Spawner


@dataclass(frozen=True)
class Reader:
    """Runs the blocks of one document, with free ports for a master and a node."""

    spawn: Spawner
    folder: Path
    blocks: dict[str, Block]
    master: int
    node: int

    @classmethod
    def beginning(cls, spawn: Spawner, folder: Path, document: str) -> Self:
        """Return a reader with free ports and the named blocks of `document`."""
        named = {block.name: block for block in blocks(document) if block.name and block.text}
        return cls(spawn, folder, named, free_port(), free_port())

    def replaced(self, text: str) -> str:
        """Return the text of a block, or a URL, with the replacements."""
        for there, here in {
            "192.168.1.10:8000": f"127.0.0.1:{self.master}",
            "192.168.1.21:8001": f"127.0.0.1:{self.node}",
            "--host 0.0.0.0 --port 8000": f"--host 127.0.0.1 --port {self.master}",
            "--bind 0.0.0.0:8001": f"--bind 127.0.0.1:{self.node}",
            ".venv/bin": str(BIN),
        }.items():
            text = text.replace(there, here)
        return text

    @property
    def environ(self) -> dict[str, str]:
        """The environment: listening addresses, path of the programs, and no proxy for loopback."""
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        listen = {"TRIONODE_HOST": "127.0.0.1", "TRIONODE_PORT": str(self.node)}
        return {**listen, "PATH": path, "no_proxy": "*", "COLUMNS": "200"}

    def run(self, name: str, *, dry: bool = False) -> str:
        """Run a block to its end and return its output. A failed command fails the test.

        With `dry`, `make` only prints its commands, in the project's folder.
        """
        script = self.replaced(self.blocks[name].text)
        if dry:
            script = "\n".join(line.replace("make ", "make --dry-run ", 1) for line in script.splitlines())
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=ROOT if dry else self.folder,
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str) -> Process:
        """Start a block whose last line is a server, which replaces the shell by `exec`, so that it gets signals."""
        *before, last = self.replaced(self.blocks[name].text).splitlines()
        script = "\n".join([*before, f"exec {last}"])
        return self.spawn("bash", "-euc", script, cwd=self.folder, env=self.environ, name=name)

    def serve_packages(self, packages: Path) -> Process:
        """Run `master-shim serve` over a folder."""
        where = ("--host", "127.0.0.1", "--port", str(self.master))
        process = self.spawn(BIN / "master-shim", "serve", "--packages", packages, *where)
        process.wait_port(self.master)
        return process

    def get(self, url: str) -> httpx.Response:
        """GET, following redirects."""
        with httpx.Client(trust_env=False, timeout=30) as client:
            return client.get(self.replaced(url), follow_redirects=True)

    def gets(self, url: str) -> bytes | None:
        """Return the body of a successful answer, else None."""
        try:
            answer = self.get(url)
        except httpx.TransportError:
            return None
        return answer.content if answer.status_code == httpx.codes.OK else None

    def status(self) -> dict[str, Any] | None:
        """Return the node's status, None while it does not answer."""
        try:
            answer = self.get(f"http://127.0.0.1:{self.node}/api/status")
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == httpx.codes.OK else None

    def end_background(self, pid_file: Path) -> None:
        """End a background process of a block, by the id in its file. Does nothing if it has ended."""
        if pid_file.exists():
            pid = int(pid_file.read_text())
            try:
                command = (pid_file.parent / f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:
                return
            if b"trionode" in command:  # another process may have this id by now
                os.kill(pid, signal.SIGKILL)
