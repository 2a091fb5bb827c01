"""A master in the process of the test, and damage to what a node has fetched from it."""

from __future__ import annotations

import mmap
import os
import sys
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from master_shim import DirectoryPackages, MasterShim
from tests.support.nodes import BIN
from tests.support.processes import free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.nodes import OurNode

BLOCK = 4096


class LocalMaster:
    """A master with the shim in this process. `ranges` counts the requested ranges; it sends at `bytes_per_second`.

    Behind `allowed` bytes of packages it sends nothing until that is raised.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        self.bytes_per_second = 0
        self.allowed = sys.maxsize
        self._sent = 0
        self.ranges: Counter[tuple[str, int, int]] = Counter()
        self._shim = MasterShim(DirectoryPackages(folder))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/api/v1/packages/"):
            digest = scope["path"].rpartition("/")[2]
            requested = dict(scope["headers"]).get(b"range", b"bytes=0-0").decode()
            start, _, last = requested.removeprefix("bytes=").partition("-")
            self.ranges[digest, int(start), int(last) + 1] += 1
            send = self._slowed(send)
        await self._shim(scope, receive, send)

    def _slowed(self, send: Any) -> Any:
        async def send_slowly(message: Any) -> None:
            while message.get("body") and self._sent >= self.allowed:
                await trio.sleep(0.01)
            self._sent += len(message.get("body", b""))
            if self.bytes_per_second and message["type"] == "http.response.body":
                await trio.sleep(len(message.get("body", b"")) / self.bytes_per_second)
            await send(message)

        return send_slowly


@asynccontextmanager
async def local_master(folder: Path, port: int = 0) -> AsyncIterator[LocalMaster]:
    """Run a master over a folder of packages, on a given port or a free one."""
    port = port or free_port()
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 0.1
    master = LocalMaster(folder, port)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: hypercorn_serve(master, config, shutdown_trigger=stop.wait, mode="asgi"))  # type: ignore[arg-type]
        try:
            await eventually(lambda: port_answers(port))
            yield master
        finally:
            stop.set()


async def port_answers(port: int) -> bool:
    async with await trio.open_tcp_stream("127.0.0.1", port):
        return True


def flip_on_disk(path: Path, offset: int) -> None:
    """Change one bit of a package on the disk.

    With O_DIRECT where the file system has it: bytes already handed to the kernel are then unchanged, as
    when the disk itself loses the bit.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    except FileNotFoundError:  # removed, or being fetched again
        return
    except OSError:
        fd = os.open(path, os.O_RDWR)
    try:
        start = offset // BLOCK * BLOCK
        block = mmap.mmap(-1, BLOCK)  # aligned, as O_DIRECT requires
        if os.preadv(fd, [block], start) == BLOCK:
            block[offset - start] ^= 0x40
            os.pwritev(fd, [block], start)
    finally:
        os.close(fd)


async def verify(node: OurNode) -> tuple[int, str]:
    """Run `trionode verify` on the node's storage; return its exit status and output."""
    found = await trio.run_process(
        [BIN / "trionode", "verify", "--storage-path", node.storage], capture_stdout=True, check=False
    )
    return found.returncode, found.stdout.decode()
