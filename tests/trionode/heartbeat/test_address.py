"""The address that a node reports: its default, and what is found wrong with it before a client fails."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.nodes import BIN, OurNode
from tests.support.processes import free_port
from trionode.heartbeat.address import (
    RESOLVE_SECONDS,
    Listener,
    ReportedAddress,
    default_address,
    listening_sockets,
    local_address,
    problem_of,
)
from trionode.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Spawner

OWN = local_address(socket.AF_INET, ("192.0.2.1", 1)) or "127.0.0.1"
"""An address of this machine in the network, if it is in one."""

LOCAL = ["192.168.1.21", "fd00::21"]
"""Addresses from which a remote master is reached."""


@pytest.mark.parametrize(
    ("listeners", "local", "address"),
    [
        ([("0.0.0.0", 8001)], LOCAL, "192.168.1.21:8001"),
        ([("0.0.0.0", 8001)], LOCAL[::-1], "192.168.1.21:8001"),
        ([("::", 8005)], LOCAL[::-1], "[fd00::21]:8005"),
        ([("::", 8005)], LOCAL, "192.168.1.21:8005"),
        ([("10.0.0.7", 8001)], LOCAL, "10.0.0.7:8001"),
        ([("10.0.0.7", 8001)], ["127.0.0.1"], "10.0.0.7:8001"),
        ([("127.0.0.1", 9001), ("0.0.0.0", 8001)], LOCAL, "192.168.1.21:8001"),
        ([("127.0.0.1", 9001)], LOCAL, "localhost:9001"),
        ([("0.0.0.0", 8001)], ["127.0.0.1", "::1"], "localhost:8001"),
        ([("0.0.0.0", 8001)], ["fe80::1%eth0"], "localhost:8001"),
        ([("0.0.0.0", 8001)], [], "localhost:8001"),
        ([], LOCAL, "localhost:7000"),
    ],
)
def test_the_default_is_an_address_that_the_node_listens_on(
    listeners: list[tuple[str, int]], local: list[str], address: str
):
    assert default_address([Listener(*each) for each in listeners], local, 7000) == address


@pytest.mark.parametrize(
    ("address", "ports", "local", "words"),
    [
        ("192.168.1.21:8001", {8001}, LOCAL, ""),
        ("192.168.1.21:8001", set(), LOCAL, ""),
        ("node-a:8001", {8001, 8443}, LOCAL, ""),
        ("localhost:8001", {8001}, ["127.0.0.1", "::1"], ""),
        ("localhost:8001", {8001}, [], ""),
        ("localhost:8001", {8001}, LOCAL, "only programs on this machine reach localhost"),
        ("127.0.0.2:8001", {8001}, LOCAL, "only programs on this machine reach 127.0.0.2"),
        ("[::1]:8001", {8001}, LOCAL, "only programs on this machine reach ::1"),
        ("0.0.0.0:8001", {8001}, ["127.0.0.1"], "0.0.0.0 is no address to connect to"),
        ("[::]:8001", {8001}, [], ":: is no address to connect to"),
        ("192.168.1.21:9001", {8001}, LOCAL, "listens on port 8001, not on 9001"),
        ("192.168.1.21:9001", {8443, 8001}, [], "listens on port 8001 and 8443, not on 9001"),
    ],
)
def test_the_problem_of_an_address(address: str, ports: set[int], local: list[str], words: str):
    problem = problem_of(address, ports, local)
    assert words in problem
    assert bool(problem) == bool(words)


def test_a_socket_that_is_bound_counts_as_listening_and_a_connection_does_not():
    with socket.socket() as bound, socket.socket(socket.AF_UNIX), socket.socket(type=socket.SOCK_DGRAM) as datagram:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
        bound.bind(("127.0.0.1", 0))
        datagram.bind(("127.0.0.1", 0))
        assert Listener(*bound.getsockname()) in listening_sockets()
        bound.listen()
        with socket.create_connection(bound.getsockname()) as client, bound.accept()[0] as accepted:
            found = listening_sockets()
            assert found.count(Listener(*bound.getsockname())) == 1
            assert Listener(*client.getsockname()) not in found
            assert Listener(*datagram.getsockname()) not in found
            assert accepted.getsockname() == bound.getsockname()


def test_a_connection_that_is_being_opened_or_was_reset_does_not_count_as_listening():
    # So are those to a master that is away, while this node looks for its address.
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        opened = [stack.enter_context(socket.socket()) for _ in range(4)]
        for each in opened:
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect(full.getsockname())
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        reset = stack.enter_context(socket.create_connection(server.getsockname()))
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        with pytest.raises(ConnectionResetError):
            reset.recv(1)
        found = listening_sockets()
        assert not {Listener(*each.getsockname()) for each in (*opened, reset)} & {*found}
        assert {Listener(*each.getsockname()) for each in (full, server)} <= {*found}


async def test_the_default_is_found_again_when_the_network_has_changed(monkeypatch: pytest.MonkeyPatch):
    own = ReportedAddress("n", load_settings({"main_server": "http://master:8000"}, {}))
    port = free_port()
    monkeypatch.setattr("trionode.heartbeat.address.listening_sockets", lambda: [Listener("0.0.0.0", port)])
    names: dict[bytes, str] = {}

    class Names(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002
            if host not in names:  # IDNA, as bytes
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return socket.getaddrinfo(names[host], port, family, type, proto, flags)

        async def getnameinfo(self, sockaddr, flags):
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Names())
    await own.find()
    assert own.registration.address == f"localhost:{port}"
    assert own.problem.startswith("the default of NODE_ADDRESS is not known: the master at master cannot be reached")
    assert "Name or service not known" in own.problem
    names[b"master"] = OWN
    await own.find()
    assert own.registration.address == (f"localhost:{port}" if OWN == "127.0.0.1" else f"{OWN}:{port}")
    assert own.problem == ""


async def test_a_name_server_that_does_not_answer_is_waited_for_a_while(autojump_clock: trio.testing.MockClock):
    class Silent(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002
            await trio.sleep_forever()

        async def getnameinfo(self, sockaddr, flags):
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Silent())
    own = ReportedAddress("n", load_settings({"main_server": "http://master:8000"}, {}))
    await own.find()
    assert trio.current_time() == RESOLVE_SECONDS
    assert "no answer of the name server within 5 s" in own.problem


@pytest.mark.parametrize("name", ["a..b", "\u2488", "x" * 64])
async def test_a_name_that_is_no_host_name_is_a_problem(name: str):
    own = ReportedAddress("n", load_settings({"main_server": f"http://{name}:8000"}, {}))
    await own.find()
    assert f"the master at {name} cannot be reached" in own.problem


@pytest.mark.parametrize("start", ["serve", "hypercorn", "hypercorn-trio"])
@pytest.mark.parametrize(
    ("given", "shown", "words"),
    [
        ("", "localhost:{port}", "only programs on this machine reach localhost"),
        ("localhost:{port}", "localhost:{port}", "only programs on this machine reach localhost"),
        ("0.0.0.0:{port}", "0.0.0.0:{port}", "0.0.0.0 is no address to connect to"),
        ("192.0.2.9:7", "192.0.2.9:7", "this node listens on port {port}, not on 7"),
        ("https://192.0.2.9:7", "192.0.2.9:7", ""),
    ],
)
async def test_a_wrong_address_is_reported_by_the_log_and_the_status(
    spawn: Spawner, tmp_path: Path, start: str, given: str, shown: str, words: str
):
    port = free_port()
    # Nothing listens there. Without a network the master counts as one on this machine.
    env = {
        "MAIN_SERVER_URL": f"http://{OWN}:{free_port()}",
        "NODE_ADDRESS": given.format(port=port),
        "STORAGE_PATH": str(tmp_path),
    }
    bind = ("-b", f"127.0.0.1:{port}", "trionode:app")
    command = {
        "serve": (BIN / "trionode", "serve", "--host", "127.0.0.1", "--port", str(port)),
        "hypercorn": (BIN / "hypercorn", *bind),
        "hypercorn-trio": (BIN / "hypercorn", "-k", "trio", *bind),
    }[start]
    node = OurNode(spawn(*command, env=env), port, tmp_path)
    await node.until_up()
    status = await node.status()
    expected = "" if OWN == "127.0.0.1" and "only programs" in words else words.format(port=port)
    assert f"{status['node_ip']}:{status['node_port']}" == shown.format(port=port)
    assert expected in status["address_problem"]
    assert bool(status["address_problem"]) == bool(expected)
    await node.until_logged(expected or "clients reach this node")
    assert node.process.log().count(expected or "clients reach this node") == 1
    command = (BIN / "trionode", "status", "--storage-path", str(tmp_path))
    shown_status = await trio.run_process(command, capture_stdout=True, env={"COLUMNS": "1000"})
    assert f"at {shown.format(port=port)}" in shown_status.stdout.decode()
    assert expected in shown_status.stdout.decode()
