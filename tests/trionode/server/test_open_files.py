"""The limit of open files of a running node."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import children
from tests.support.servers import KINDS, start_server
from tests.support.waiting import eventually_blocking

if TYPE_CHECKING:
    from tests.support.nodes import Start
    from tests.support.processes import Process, Spawner
    from tests.support.servers import Kind
    from tests.trionode.conftest import StartNode

LAST_REQUEST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("how", ["serve", "hypercorn", "hypercorn-trio"])
async def test_the_limit_of_open_files_is_raised(start_node: StartNode, how: Start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        node = start_node("http://127.0.0.1:1", how=how)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await node.until_up()
    limits = [
        line.split()[3:5]
        for pid in (node.process.pid, *children(node.process.pid))
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
        if line.startswith("Max open files")
    ]
    assert limits[-1] == [str(hard), str(hard)]


OPEN_FILES = 400
"""The limit of open files of the server, of which 144 are for connections."""


@pytest.mark.parametrize("kind", KINDS)
def test_connections_beyond_the_open_files_are_refused_with_one_line_of_log(spawn: Spawner, tmp_path: Path, kind: Kind):
    def spawn_limited(*command: str | Path, **options: Any) -> Process:
        process = spawn(*command, **options)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
        return process

    server = start_server(spawn_limited, tmp_path, kind)  # type: ignore[arg-type]
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    connections: list[socket.socket] = []
    statuses: Counter[bytes] = Counter()
    try:
        for _ in range(3 * OPEN_FILES // 2):
            connection = server.connect()
            connections.append(connection)
            connection.sendall(request)
            with contextlib.suppress(ConnectionError):  # refused, without time to read the answer
                statuses[connection.recv(1000)[9:12]] += 1
        others = [server.connect() for _ in range(2 * OPEN_FILES)]  # all at once, and silent
        connections += others
        time.sleep(2)
    finally:
        for connection in connections:
            connection.close()
    assert statuses[b"200"] > 100
    assert statuses[b"503"] >= 64
    assert set(statuses) == {b"200", b"503"}
    eventually_blocking(lambda: server.exchange(LAST_REQUEST).status == 200, within=20)
    log = server.process.log()
    assert log.count("new connections are refused") == 1
    assert log.count("Too many open files") <= (kind == "hypercorn"), "the line of asyncio"
    assert "Traceback" not in log
