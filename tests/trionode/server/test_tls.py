"""HTTPS: HTTP/1.1 and HTTP/2 through TLS, slow clients there, and certificates that cannot be used."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.certificates import Certificate
from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of, run_serve
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually, eventually_blocking

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.nodes import OurNode, Start
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

PATH = "/api/v1/meetings/big/download-package"


@pytest.fixture
def big(folder: Path) -> Package:
    """More than the buffers between a node and a client hold."""
    return make_package(folder / "big.zip", make_documents(4, 4_000_000), level=1)


@pytest.fixture
def master(fakes: FakeFactory, folder: Path, big: Package) -> RunningMaster:
    return fakes.master(folder, started=("big",))


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path)


class Https:
    """A node that serves HTTPS, asked by curl."""

    def __init__(self, node: OurNode, certificate: Certificate) -> None:
        self.node = node
        self.base = f"https://127.0.0.1:{node.port}"
        self.trust = ("--cacert", certificate.ca)

    def curl(self, *arguments: str | Path) -> bytes:
        command = ["curl", "-sS", "--max-time", "20", *map(str, (*self.trust, *arguments))]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def until_synced(self) -> None:
        await eventually(lambda: json.loads(self.curl(f"{self.base}/ready")).get("synced") == ["big"], within=20)

    def status(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.curl(f"{self.base}/api/status"))
        return found


@pytest.mark.parametrize(("option", "protocol"), [("--http1.1", "1.1"), ("--http2", "2")])
async def test_packages_and_ranges_arrive_over_https(
    master: RunningMaster,
    big: Package,
    start_node: StartNode,
    certificate: Certificate,
    tmp_path: Path,
    option: str,
    protocol: str,
):
    https = Https(start_node(master.url, certfile=certificate.cert, keyfile=certificate.key), certificate)
    await https.until_synced()
    target = tmp_path / "got.zip"
    version = https.curl(option, "-o", target, "-w", "%{http_version}", https.base + PATH)
    assert version.decode() == protocol
    assert digest_of(target.read_bytes()) == big.digest
    part = https.curl(option, "-r", "1000000-2999999", https.base + PATH)
    assert part == target.read_bytes()[1_000_000:3_000_000]
    assert https.node.process.stop() == 0


async def test_the_shim_sends_clients_to_a_node_with_a_certificate_by_https(
    spawn: Spawner, folder: Path, big: Package, start_node: StartNode, certificate: Certificate, tmp_path: Path
):
    master = ShimMaster(spawn, folder)
    https = Https(start_node(master.url, certfile=certificate.cert, keyfile=certificate.key), certificate)
    info = "/api/v1/meetings/big/download-nodes-info"
    await eventually(lambda: str(https.node.port) in json.dumps(master.get(info).json()), within=20)
    assert [entry["download_url"] for entry in master.get(info).json()] == [https.base + PATH]
    target = tmp_path / "got.zip"
    end = https.curl("-L", "-o", target, "-w", "%{url_effective}", master.url + PATH).decode()
    assert end.startswith(https.base)
    assert digest_of(target.read_bytes()) == big.digest


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
async def test_a_client_of_https_that_stops_reading_is_cut_off(
    master: RunningMaster, big: Package, start_node: StartNode, certificate: Certificate, tmp_path: Path, option: str
):
    node = start_node(master.url, certfile=certificate.cert, keyfile=certificate.key, progress_seconds=1)
    https = Https(node, certificate)
    await https.until_synced()
    stopped = subprocess.Popen(
        ["curl", "-sS", option, "--limit-rate", "1000", *https.trust, "-o", tmp_path / "part", https.base + PATH],
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually_blocking(lambda: https.status()["active_downloads"] == 1)
        eventually_blocking(lambda: https.status()["downloads_broken_off"] == 1, within=20)
    finally:
        stopped.kill()
        stopped.wait()
    assert node.process.stop() == 0


class RawTls:
    """A TLS client on a socket, which can close each layer's sending side by itself."""

    def __init__(self, port: int, certificate: Certificate) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=certificate.ca)
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        self._call(self._tls.do_handshake)

    def _call(self, step: Callable[[], bytes | int | None]) -> bytes | int | None:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._receive():
                    return b""
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._socket.sendall(data)

    def _receive(self) -> bool:
        data = self._socket.recv(1 << 16)
        self._incoming.write(data)
        return bool(data)

    def send(self, data: bytes) -> None:
        self._call(lambda: self._tls.write(data))

    def close_sending(self, *, notify: bool) -> None:
        """Close the sending side of the socket, perhaps that of TLS before."""
        if notify:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
            self._flush()
        self._socket.shutdown(socket.SHUT_WR)

    def read_to_end(self) -> bytes:
        parts = iter(lambda: self._call(lambda: self._tls.read(1 << 16)), b"")
        with self._socket:
            return b"".join(parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["serve", "hypercorn-trio"])
async def test_a_client_of_http_at_a_port_of_https_is_told(
    master: RunningMaster, big: Package, start_node: StartNode, certificate: Certificate, how: Start
):
    node = start_node(master.url, how=how, certfile=certificate.cert, keyfile=certificate.key)
    await Https(node, certificate).until_synced()
    for _ in range(3):
        answer = httpx.get(f"http://127.0.0.1:{node.port}{PATH}", trust_env=False)
        assert (answer.status_code, list(answer.json())) == (400, ["detail"])
        assert "https://" in answer.json()["detail"]
        assert answer.headers["access-control-allow-origin"] == "*"
    assert node.process.log().count("a client speaks http to this port, which speaks https") == 1


@pytest.mark.parametrize("notify", [True, False])
async def test_a_client_of_https_that_closes_its_sending_side_gets_the_whole_answer(
    master: RunningMaster, big: Package, start_node: StartNode, certificate: Certificate, notify: bool
):
    https = Https(start_node(master.url, certfile=certificate.cert, keyfile=certificate.key), certificate)
    await https.until_synced()
    for path in (PATH, "/api/status"):
        client = RawTls(https.node.port, certificate)
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.close_sending(notify=notify)
        head, _, body = client.read_to_end().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), path
        assert path != PATH or digest_of(body) == big.digest


@pytest.mark.parametrize("missing", ["certfile", "keyfile"])
def test_a_certificate_without_its_key_is_refused(certificate: Certificate, missing: str):
    given = {"certfile": certificate.cert, "keyfile": certificate.key}
    del given[missing]
    (name, path), *_ = given.items()
    done = run_serve(f"--{name}", path)
    assert done.returncode == 2
    assert f"'{missing}'" in done.stderr


UNUSABLE = {
    "exchanged": ("key", "cert", "certfile and keyfile are exchanged"),
    "a key in both": ("key", "key", "has no certificate in PEM"),
    "a certificate in both": ("cert", "cert", "has no private key in PEM"),
    "a certificate in DER": ("der", "key", "convert this one (openssl x509 -inform der"),
    "a passphrase": ("cert", "locked", "has a passphrase, which nobody can enter here: write the key without it"),
    "an old passphrase": ("cert", "locked_pkcs1", "has a passphrase"),
    "another key": ("cert", "other", "is not the key of the first certificate"),
    "half of a certificate": ("half", "key", "a file is damaged or incomplete"),
    "no file": ("none", "key", "none cannot be read: No such file or directory"),
}


@pytest.mark.parametrize(("cert", "key", "sentence"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_certificate_that_cannot_be_used_is_refused_in_one_sentence(
    certificate: Certificate, tmp_path: Path, cert: str, key: str, sentence: str
):
    (tmp_path / "other").mkdir()
    paths = {"cert": certificate.cert, "key": certificate.key, "other": Certificate(tmp_path / "other").key}
    paths |= {name: tmp_path / name for name in ("der", "locked", "locked_pkcs1", "half", "none")}
    pem = certificate.cert.read_text()
    paths["der"].write_bytes(ssl.PEM_cert_to_DER_cert(pem[: pem.index("-----END")] + "-----END CERTIFICATE-----\n"))
    paths["half"].write_text(pem[: len(pem) // 2])
    openssl = ["openssl", "pkey", "-in", str(certificate.key), "-aes128", "-passout", "pass:x"]
    subprocess.run([*openssl, "-out", str(paths["locked"])], check=True)
    subprocess.run([*openssl, "-traditional", "-out", str(paths["locked_pkcs1"])], check=True)
    done = run_serve("--certfile", paths[cert], "--keyfile", paths[key])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr
