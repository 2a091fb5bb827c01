"""`trionode status`: of a node at a URL, and of the one that runs on a storage folder."""

from __future__ import annotations

import json
import socket
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import free_port
from trionode.cli.exits import NOT_RUNNING, OK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import OurNode
    from tests.trionode.cli.conftest import Trionode


async def test_status_shows_what_the_node_holds(node: OurNode, trionode: Trionode):
    for which in ([node.url], [node.url.removeprefix("http://")], ["--storage-path", node.storage]):
        text = await trionode("status", *which)
        assert text.returncode == OK, text.stderr
        assert "同步成功" in text.stdout
        assert "m1" in text.stdout
        as_json = await trionode("status", *which, "--json")
        assert as_json.returncode == OK
        assert json.loads(as_json.stdout)["meeting_count"] == 1


async def test_status_reports_that_no_node_answers(storage: Path, tmp_path: Path, trionode: Trionode):
    url = f"http://127.0.0.1:{free_port()}"
    for address in (url, url.removeprefix("http://"), "ftp://node", "http://node:port", "node:port", "::1"):
        done = await trionode("status", address)
        assert (done.returncode, done.stdout) == (NOT_RUNNING, "")
        assert done.stderr.startswith(f"trionode: no node answers at {address}")
        assert "Traceback" not in done.stderr
    (tmp_path / "file").touch()
    for folder in (storage, tmp_path / "nowhere", tmp_path / "file"):
        done = await trionode("status", "--storage-path", folder)
        assert (done.returncode, done.stdout) == (NOT_RUNNING, "")
        assert f"no node runs on the storage folder {folder}" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "but another program; HTTP status 200"),
        ('HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\n{"detail": ""}', "but another program; HTTP status 404"),
        ('HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"running": true}', "is no trionode"),
        ("SSH-2.0-OpenSSH_9.2\x1b[31m\r\n", "does not speak HTTP"),
    ],
    ids=["a web page", "a master", "a deployed node", "ssh"],
)
async def test_another_program_at_the_address_is_explained(trionode: Trionode, answer: str, words: str):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer.encode())

        thread = Thread(target=serve, daemon=True)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        done = await trionode("status", address)
        thread.join()
    assert (done.returncode, done.stdout) == (NOT_RUNNING, "")
    assert address in done.stderr
    assert words in done.stderr
    assert (done.stderr.count("\n"), done.stderr.count("\x1b")) == (1, 0)
