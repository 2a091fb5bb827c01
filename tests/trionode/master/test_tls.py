"""A master that speaks HTTPS with a certificate of a private authority."""

from __future__ import annotations

import os
import ssl
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.certificates import Certificate
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, digest_of, run_serve
from tests.support.processes import free_port
from trionode.errors import OriginUnreachable, SettingError
from trionode.master.client import Master
from trionode.master.tls import tls_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.nodes import Start
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

EMPTY_LIST = b'{"id":"none","active_meetings":[]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(EMPTY_LIST), EMPTY_LIST)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path)


@asynccontextmanager
async def serving_tls(certificate: Certificate, to_port: int = 0) -> AsyncIterator[str]:
    """Listen with TLS, and pass each connection on to a port, or answer with an empty list. Yield the URL."""

    async def pump(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
        async for data in source:
            await sink.send_all(data)
        await sink.aclose()

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            if not to_port:
                await stream.receive_some(65536)
                await stream.send_all(ANSWER)
                return
            async with await trio.open_tcp_stream("127.0.0.1", to_port) as behind, trio.open_nursery() as nursery:
                nursery.start_soon(pump, stream, behind)
                nursery.start_soon(pump, behind, stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        serve_tls = partial(trio.serve_ssl_over_tcp, host="127.0.0.1", https_compatible=True)
        listeners = await nursery.start(serve_tls, serve, 0, certificate.server_context())
        yield f"https://127.0.0.1:{listeners[0].transport_listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def poll(url: str, ca_file: Path | None = None) -> None:
    master = Master(url, ca_file)
    try:
        assert not (await master.poll()).meetings
    finally:
        await master.aclose()


@pytest.mark.parametrize("start", ["serve", "hypercorn", "hypercorn-trio"])
async def test_a_node_with_the_authority_in_ca_file_syncs_from_an_https_master(
    spawn: Spawner, folder: Path, package: Package, start_node: StartNode, certificate: Certificate, start: Start
):
    async with serving_tls(certificate, ShimMaster(spawn, folder).port) as url:
        node = start_node(url, how=start, ca_file=certificate.ca)
        await node.until_synced("m1", within=30)
        assert digest_of((await node.download("m1")).content) == package.digest


async def test_a_certificate_that_is_not_trusted_is_named_in_the_log_and_in_the_status(
    start_node: StartNode, certificate: Certificate
):
    async with serving_tls(certificate) as url:
        node = start_node(url)
        why = "certificate verify failed: unable to get local issuer certificate"
        await node.until_logged(why, within=20)
        assert why in (await node.status())["sync_status"]
        assert "ConnectError" not in node.process.log()


async def test_the_authorities_of_the_system_are_trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch):
    async with serving_tls(certificate) as url:
        with pytest.raises(OriginUnreachable):
            await poll(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.ca))
        await poll(url)


async def test_the_certificate_of_the_server_itself_in_ca_file_is_enough(certificate: Certificate, tmp_path: Path):
    async with serving_tls(certificate) as url:
        await poll(url, certificate.cert)
        public = ssl.create_default_context().get_ca_certs(binary_form=True)
        own = tls_context(certificate.ca).get_ca_certs(binary_form=True)
        assert set(public) < set(own)


async def test_reasons_of_failed_connections_are_in_words(tmp_path: Path):
    elsewhere = Certificate(tmp_path, "192.0.2.7")
    async with serving_tls(elsewhere) as url:
        with pytest.raises(OriginUnreachable, match=r"verify failed: IP address mismatch, .*'127\.0\.0\.1'$"):
            await poll(url, elsewhere.ca)
    with pytest.raises(OriginUnreachable, match=r"Connection refused$"):
        await poll(f"http://127.0.0.1:{free_port()}")

    async def plain(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, plain, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(OriginUnreachable, match="does not speak TLS"):
            await poll(f"https://127.0.0.1:{port}")
        assert "does not speak TLS" in await status_of(f"https://127.0.0.1:{port}")
        nursery.cancel_scope.cancel()
    async with serving_tls(elsewhere) as url:
        plain_url = url.replace("https", "http")
        with pytest.raises(OriginUnreachable, match=r"if it speaks https at this port, say so in the URL$"):
            await poll(plain_url)
        assert "if it speaks https at this port" in await status_of(plain_url)


async def status_of(url: str) -> str:
    """Return what both status commands say of a URL at which neither program answers."""
    said = ""
    for program in ("trionode", "master-shim"):
        done = await trio.run_process(
            [str(BIN / program), "status", url], capture_stdout=True, capture_stderr=True, check=False
        )
        assert done.returncode == 3
        assert done.stderr.count(b"\n") == 1
        assert not said or done.stderr.decode().partition(" (")[2] == said.partition(" (")[2]
        said = done.stderr.decode()
    return said


@pytest.mark.parametrize(
    ("name", "why"), [("nowhere.pem", "No such file"), ("key.pem", "no certificate"), ("", "Is a directory")]
)
def test_a_ca_file_that_cannot_be_used_ends_the_start_in_one_line(
    certificate: Certificate, tmp_path: Path, name: str, why: str
):
    path = tmp_path / name
    with pytest.raises(SettingError, match=why):
        tls_context(path)
    storage = ("--storage-path", tmp_path / "storage")
    hypercorn = subprocess.run(
        [BIN / "hypercorn", "-b", f"127.0.0.1:{free_port()}", "trionode:app"],
        env={**os.environ, "TRIONODE_CA_FILE": str(path), "STORAGE_PATH": str(tmp_path / "storage")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    done = run_serve("--ca-file", path, "--host", "127.0.0.1", "--port", str(free_port()), *storage)
    assert done.returncode == 2
    for errors in (done.stderr, hypercorn.stderr):
        line = next(line for line in errors.splitlines() if "cannot start" in line)
        assert str(path) in line
        assert why in line
        assert "--ca-file, TRIONODE_CA_FILE or ca_file" in line
        assert "Traceback" not in errors
