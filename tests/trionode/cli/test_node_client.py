"""The client of a running node: which failures mean that the node has ended, and which do not."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from trionode.cli import node_client
from trionode.cli.exits import FAILED, NOT_RUNNING
from trionode.cli.explain import explain
from trionode.cli.node_client import NodeGone, node_of
from trionode.errors import CommandFailed
from trionode.web.control import SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def answering(storage: Path, answer: bytes | None) -> Iterator[None]:
    """Accept one connection at the control socket, and send `answer` and close, or with None be silent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(storage / SOCKET))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                if answer is None:
                    connection.recv(65536)  # Until the client closes.
                else:
                    connection.sendall(answer)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(5)
        assert not thread.is_alive()


def test_a_slow_answer_does_not_mean_that_the_node_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(node_client, "CALL_SECONDS", 0.1)
    with answering(tmp_path, None), node_of(tmp_path) as node, pytest.raises(CommandFailed) as failure:
        node.call("GET", "/status")
    assert not isinstance(failure.value, NodeGone)
    assert failure.value.status == NOT_RUNNING


def test_a_closed_connection_means_that_the_node_has_ended(tmp_path: Path):
    with answering(tmp_path, b""), node_of(tmp_path) as node, pytest.raises(NodeGone):
        node.call("GET", "/status")


@pytest.mark.parametrize("body", [b"<html>", b"[]"])
def test_another_program_is_reported(tmp_path: Path, body: bytes):
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body
    with answering(tmp_path, answer), node_of(tmp_path) as node, pytest.raises(CommandFailed) as failure:
        node.call("GET", "/status")
    assert not isinstance(failure.value, NodeGone)


def test_a_missing_permission_is_explained():
    error = PermissionError(13, "Permission denied", "/srv/trionode/control.sock")
    assert explain(error) == ("/srv/trionode/control.sock: Permission denied; run this as the node's user", FAILED)
