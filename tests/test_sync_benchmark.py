"""The benchmark of nodes that fetch from each other: what it counts, and what it does where it cannot run.

Nothing is measured here, since that needs root, and a figure depends on the machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import pytest

from benchmarks.common import BenchmarkError, Row
from benchmarks.sync_bench import LINE_COPIES, RELATIVE
from benchmarks.sync_cluster import Outcome
from benchmarks.sync_liar import first_id
from benchmarks.sync_others import PIECE_BYTES, bencode, torrent
from benchmarks.sync_picture import STYLES, layout
from benchmarks.sync_relay import MANIFEST, OTHER, PACKAGE, Relay, kind_of, read_counts
from master_shim.protocol.chain import precedes
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIGEST = "a" * 64


class Origin(BaseHTTPRequestHandler):
    """Sends bodies with a length, in chunks, and up to the end of the connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path.endswith("/download-package-direct"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(3):
                self.wfile.write(b"64\r\n" + b"c" * 100 + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path.endswith("/manifest"):
            self.close_connection = True
            self.end_headers()
            self.wfile.write(b"m" * 70)
            return
        self.send_header("Content-Length", "500000")
        self.end_headers()
        self.wfile.write(b"p" * 500_000)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "500000")
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def origin() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Origin) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_the_relay_passes_all_bodies_on_and_counts_them_by_kind(origin: int, tmp_path: Path) -> None:
    async def ask() -> dict[str, dict[str, int]]:
        relay = Relay("127.0.0.1", origin)
        told = await asyncio.start_unix_server(relay.tell, tmp_path / "counts")
        server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v1"
        async with told, server, httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{url}/packages/{DIGEST}")).content == b"p" * 500_000
            assert (await client.head(f"{url}/packages/{DIGEST}")).content == b""
            assert (await client.get(f"{url}/meetings/m/download-package-direct")).content == b"c" * 300
            assert (await client.post(f"{url}/nodes/heartbeat", content=b"beat")).content == b"beat"
            assert (await client.get(f"{url}/meetings/m/manifest")).content == b"m" * 70
            return await asyncio.to_thread(read_counts, tmp_path / "counts")

    counts = asyncio.run(ask())
    assert {kind: sum(found.values()) for kind, found in counts.items()} == {PACKAGE: 500_300, OTHER: 4, MANIFEST: 70}
    assert {client for found in counts.values() for client in found} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("target", "status", "kind"),
    [
        (f"/api/v1/packages/{DIGEST}", 206, PACKAGE),
        ("/api/v1/meetings/m/download-package?v=1", 200, PACKAGE),
        (f"/api/v1/packages/{DIGEST}", 404, OTHER),
        (f"/api/v1/packages/{DIGEST}/nodes?node=n", 200, OTHER),
        ("/api/v1/meetings/m/manifest", 200, MANIFEST),
        ("/api/v1/meetings/m/manifest", 304, OTHER),
        ("/api/v1/meetings/status/node", 200, OTHER),
    ],
)
def test_what_counts_as_a_package(target: str, status: int, kind: str) -> None:
    assert kind_of(target, status) == kind


def test_the_last_node_is_that_of_those_that_count() -> None:
    outcome = Outcome(seconds={"a": 3.0, "b": 9.0, "c": 4.0})
    assert outcome.last() == 9.0
    assert outcome.last(without=["b"]) == 4.0


def test_the_lying_node_is_before_all_others_in_the_order() -> None:
    names = [f"node-{number:02}" for number in range(1, 17)]
    liar = first_id(DIGEST, names)
    assert all(precedes(DIGEST, liar, name) for name in names)


def test_a_torrent_has_the_digest_of_every_piece(tmp_path: Path) -> None:
    data = os.urandom(PIECE_BYTES + 5)
    (tmp_path / "it.zip").write_bytes(data)
    pieces = hashlib.sha1(data[:PIECE_BYTES]).digest() + hashlib.sha1(data[PIECE_BYTES:]).digest()
    info = b"d6:lengthi%de4:name6:it.zip12:piece lengthi%de6:pieces40:%be" % (len(data), PIECE_BYTES, pieces)
    assert torrent(tmp_path / "it.zip", "http://t/") == b"d8:announce9:http://t/4:info" + info + b"e"
    assert bencode({"b": 1, "a": "x"}) == b"d1:a1:x1:bi1ee", "keys are sorted"


def some_rows() -> list[Row]:
    rows = []
    for count in (8, 2):
        for master in ("shim", "unmodified master"):
            for subject, value in (("trionode", 1.0), ("each alone", float(count))):
                for metric in (LINE_COPIES, RELATIVE):
                    rows.append(Row(f"{count} nodes, 64 MB, {master}", subject, metric, value, "copies"))
    rows += [Row("8 nodes, 64 MB, shim", "aria2c", metric, 1.6, "copies") for metric in (LINE_COPIES, RELATIVE)]
    return [*rows, Row("8 nodes, a master at a tenth of the speed, 16 MB", "trionode", RELATIVE, 7.0, "ratio")]


def test_the_picture_shows_every_subject_against_the_number_of_nodes() -> None:
    copies, times = layout(some_rows())
    assert [line.subject for line in copies.lines] == [name for name in STYLES if name != "rsync"]
    assert [line.points for line in copies.lines] == [
        *[((2, 1.0), (8, 1.0))] * 2,
        ((2, 2.0), (8, 8.0)),
        ((8, 1.6),),
    ]
    assert [line.points for line in times.lines] == [line.points for line in copies.lines]
    with pytest.raises(BenchmarkError, match="together"):
        layout([row for row in some_rows() if "tenth" in row.work])


def test_where_no_namespace_can_be_made_one_line_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.sync", "--quick", "--json", str(tmp_path / "figures.json")]
    where = {**os.environ, "PATH": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=where, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1
    assert "network namespaces" in ended.stderr
    assert not (tmp_path / "figures.json").exists()


def test_an_unknown_work_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.sync", "--only", "update,dance"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "no such work: dance" in ended.stderr
