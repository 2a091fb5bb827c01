"""Other programs that bring a file to many hosts: aria2c as a BitTorrent client, and rsync from the master by each.

Run as `python -m benchmarks.sync_others ADDRESS`, this module is the torrent's tracker: it tells every client of all
others that have asked. aria2c has none of its own.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import sys
import time
import urllib.parse
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.common import BenchmarkError
from benchmarks.sync_cluster import LINE, MASTER_ADDRESS, Outcome
from benchmarks.sync_lines import Network, kill_all
from examples.demo.packages import file_digest

if TYPE_CHECKING:
    from pathlib import Path

    from examples.demo.packages import Package

ARIA2C, RSYNC = "aria2c", "rsync"

PIECE_BYTES = 256 << 10
"""The usual size of a torrent's pieces for a file of 64 MB."""

INTERVAL_SECONDS = 2
"""Interval at which clients ask the tracker, which all do at the start."""

TRACKER_PORT, PEER_PORT, RSYNC_PORT = 6969, 6881, 873

SETTLE_SECONDS = 2.0
"""Time for the seeder, the tracker and the daemon to start before the hosts do."""


def installed() -> list[str]:
    """Return which of these programs are installed."""
    return [name for name in (ARIA2C, RSYNC) if shutil.which(name)]


def bencode(value: Any) -> bytes:
    """Return the bencoding of an integer, bytes, text, or a dict of these."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%b" % (len(value), value)
    pairs = sorted((key.encode(), item) for key, item in value.items())
    return b"d" + b"".join(bencode(key) + bencode(item) for key, item in pairs) + b"e"


def torrent(path: Path, tracker: str) -> bytes:
    """Return the .torrent file of one file, announced to `tracker`."""
    pieces = b""
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            pieces += hashlib.sha1(piece).digest()
    info = {"length": path.stat().st_size, "name": path.name, "piece length": PIECE_BYTES, "pieces": pieces}
    return bencode({"announce": tracker, "info": info})


class Tracker(http.server.BaseHTTPRequestHandler):
    """Answers announcements with the addresses of all clients."""

    known: ClassVar[dict[tuple[str, int], None]] = {}

    def do_GET(self) -> None:
        """Answer an announcement."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query, encoding="latin-1")
        own = (self.client_address[0], int(query["port"][0]))
        self.known[own] = None
        packed = [
            bytes(map(int, host.split("."))) + port.to_bytes(2) for host, port in self.known if (host, port) != own
        ]
        body = bencode({"interval": INTERVAL_SECONDS, "min interval": INTERVAL_SECONDS, "peers": b"".join(packed)})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def fetch(
    name: str, package: Package, nodes: int, folder: Path, limit: float, *, old: Package | None = None
) -> Outcome:
    """Bring `package` from a master to `nodes` hosts that start together; return when each of them has it.

    With `old`, each of them has that package already (rsync only). Raises `BenchmarkError` after `limit` seconds.
    """
    outcome = Outcome()
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        master = network.add("master", MASTER_ADDRESS)
        hosts = {f"host-{number:02}": network.add(f"n{number}", f"1.{number}") for number in range(1, nodes + 1)}
        for host in (master, *hosts.values()):
            network.limit(host, LINE)
        source = _seed_aria2c if name == ARIA2C else _serve_rsync
        servers = [
            stack.enter_context(master.start(f"{name}-{number}", folder / f"{name}-{number}.log", *command))
            for number, command in enumerate(source(package, master.address, folder))
        ]
        stack.callback(kill_all, servers)
        time.sleep(SETTLE_SECONDS)
        for host in hosts:
            (folder / host).mkdir()
            if old is not None:
                shutil.copyfile(old.path, folder / host / package.path.name)
        line_before, began = network.sent(master), time.monotonic()
        for host in hosts:
            command = _aria2c(folder, host) if name == ARIA2C else _rsync(package, master.address, folder / host)
            server = stack.enter_context(hosts[host].start(host, folder / f"{host}.log", *command))
            servers.append(server)
        missing = {host: folder / f"{host}.done" for host in hosts}
        while missing:
            now = time.monotonic() - began
            for host in [host for host, path in missing.items() if path.exists()]:
                outcome.seconds[host] = now
                del missing[host]
            if now > limit:
                log = folder / f"{next(iter(missing))}.log"
                raise BenchmarkError(f"{name}: not all have it after {limit:.0f} s\n{log.read_text()[-2000:]}")
            time.sleep(0.01)
        outcome.line_bytes = network.sent(master) - line_before
        kill_all(servers)
        for host in hosts:
            if file_digest(folder / host / package.path.name) != package.digest:
                raise BenchmarkError(f"{name} brought wrong bytes")
    return outcome


def _seed_aria2c(package: Package, address: str, folder: Path) -> list[list[str]]:
    (folder / "it.torrent").write_bytes(torrent(package.path, f"http://{address}:{TRACKER_PORT}/announce"))
    seed = [*_ARIA2C, f"--dir={package.path.parent}", "--check-integrity=true", str(folder / "it.torrent")]
    return [[sys.executable, "-m", "benchmarks.sync_others", address], seed]


_ARIA2C = [
    *(ARIA2C, "--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--disable-ipv6"),
    *("--seed-ratio=0.0", f"--listen-port={PEER_PORT}", "--file-allocation=none", "--summary-interval=0"),
]
"""Without limits of its own, and serving on and on."""


def _aria2c(folder: Path, host: str) -> list[str]:
    done = folder / f"{host}.sh"
    done.write_text(f"#!/bin/sh\ntouch {folder / host}.done\n")
    done.chmod(0o755)
    return [*_ARIA2C, f"--dir={folder / host}", f"--on-bt-download-complete={done}", str(folder / "it.torrent")]


def _serve_rsync(package: Package, address: str, folder: Path) -> list[list[str]]:
    config = folder / "rsyncd.conf"
    # As root, the daemon would read the file as another user, who may not enter a temporary folder.
    config.write_text(
        f"use chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
        f"[it]\npath = {package.path.parent}\nread only = yes\n"
    )
    return [[RSYNC, "--daemon", "--no-detach", f"--config={config}", f"--address={address}", f"--port={RSYNC_PORT}"]]


def _rsync(package: Package, address: str, target: Path) -> list[str]:
    wanted = f"rsync --no-motd --ignore-times rsync://{address}:{RSYNC_PORT}/it/{package.path.name} {target}/"
    return ["sh", "-c", f"{wanted} && touch {target}.done"]


if __name__ == "__main__":
    http.server.ThreadingHTTPServer((sys.argv[1], TRACKER_PORT), Tracker).serve_forever()
