"""The compared servers, as processes over the same package: the node, the deployed design, nginx."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.common import Server, free_port
from examples.demo.packages import Package, make_documents, make_package

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

NODE = "trionode"
BESIDE = "trionode, other checkout"
DEPLOYED = "deployed design"
NGINX = "nginx"

MEETING = "meeting"
DOWNLOAD = f"/api/v1/meetings/{MEETING}/download-package"
DIRECT = f"/api/v1/meetings/{MEETING}/download-package-direct"
SMALL_FILE = "small.json"


@dataclass(frozen=True, slots=True)
class Subject:
    """A running server, its paths of the package and of something small, and the folder of its packages."""

    server: Server
    path: str
    small: str
    folder: Path

    @property
    def name(self) -> str:
        """Its name in the tables."""
        return self.server.name


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Tuning:
    """The settings of nginx that matter for large files. The defaults were the fastest, see README.md."""

    workers: int = 2
    chunk: str = "2m"
    nopush: bool = True


def make(folder: Path, megabytes: int) -> Package:
    """Make a package of about `megabytes` million bytes in `folder`, with documents of up to 2 MB, as in real ones."""
    folder.mkdir(parents=True)
    count = max(1, megabytes // 2)
    documents = make_documents(count, megabytes * 1_000_000 // count, seed=f"{megabytes} MB")
    package = make_package(folder / f"{MEETING}.zip", documents, level=1)
    (folder / SMALL_FILE).write_text('{"status": "healthy"}' * 12)
    return package


def make_certificate(folder: Path) -> Certificate | None:
    """Make a certificate for 127.0.0.1 (P-256, whose handshakes are cheap); None without openssl."""
    if (program := shutil.which("openssl")) is None:
        return None
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(made.key), "-out", str(made.cert), "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return made


def start_master(stack: ExitStack, folder: Path, files: Path) -> Server:
    """Run a master from which nodes fetch the package. It is idle during the measurements."""
    port = free_port()
    command = [sys.executable, "-m", "master_shim", "serve", "--packages", str(files), "--host", "127.0.0.1"]
    master = stack.enter_context(Server("master", port, [*command, "--port", str(port)], folder / "master.log"))
    master.wait_up()
    return master


def start_node(
    stack: ExitStack,
    folder: Path,
    master_port: int,
    *,
    checkout: Path | None = None,
    certificate: Certificate | None = None,
) -> Subject:
    """Run `trionode serve` without tuning.

    With `checkout` the node is that of another checkout of this project, with its own `.venv`.
    """
    port = free_port()
    storage = folder / ("node" if checkout is None else "node-beside")
    python = sys.executable if checkout is None else str(checkout / ".venv" / "bin" / "python")
    command = [python, "-m", "trionode", "serve", "--main-server", f"http://127.0.0.1:{master_port}"]
    command += ["--node-address", f"127.0.0.1:{port}", "--storage-path", str(storage)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if certificate is not None:
        command += ["--certfile", str(certificate.cert), "--keyfile", str(certificate.key)]
    name, log = NODE if checkout is None else BESIDE, storage.with_suffix(".log")
    server = Server(name, port, command, log, tls=certificate is not None, cwd=checkout)
    return Subject(stack.enter_context(server), DOWNLOAD, "/health", storage / "packages")


def start_deployed(stack: ExitStack, folder: Path, files: Path, master_port: int | None = None) -> Subject:
    """Run the deployed node's way of sending a file, and with `master_port` also its way of fetching it."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.deployed_node", str(port), str(files)]
    command += [] if master_port is None else [f"http://127.0.0.1:{master_port}"]
    server = Server(DEPLOYED, port, command, folder / "deployed.log")
    return Subject(stack.enter_context(server), DOWNLOAD, "/health", files)


def start_nginx(
    stack: ExitStack,
    folder: Path,
    files: Path,
    *,
    tuning: Tuning | None = None,
    name: str = NGINX,
    certificate: Certificate | None = None,
    origin_port: int | None = None,
) -> Subject | None:
    """Run nginx, tuned for large files, over `files`, or with `origin_port` as a cache; None if not installed."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        return None
    port = free_port()
    tuning = tuning or Tuning()
    place = folder / f"nginx-{port}"
    place.mkdir()
    proxy = "" if origin_port is None else _PROXY.format(origin=origin_port)
    config = place / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            # As root, its workers would run as another user, who cannot read a temporary folder.
            user="user root;" if os.geteuid() == 0 else "",
            workers=tuning.workers,
            chunk=tuning.chunk,
            nopush="on" if tuning.nopush else "off",
            place=place,
            files=files,
            port=f"{port} ssl" if certificate else port,
            tls=_TLS.format(cert=certificate.cert, key=certificate.key) if certificate else "",
            cache=f"proxy_cache_path {place}/cache keys_zone=packages:1m;" if proxy else "",
            proxy=proxy,
        ),
        encoding="utf-8",
    )
    command: list[str | Path] = [program, "-p", place, "-e", place / "error.log", "-c", config]
    server = Server(name, port, command, place / "log", tls=certificate is not None)
    path = f"/{MEETING}.zip" if origin_port is None else DIRECT
    return Subject(stack.enter_context(server), path, f"/{SMALL_FILE}", files)


_CONFIG = """\
{user}
worker_processes {workers};
worker_rlimit_nofile 16384;
daemon off;
pid {place}/pid;
events {{ worker_connections 4096; }}
http {{
  types {{ application/zip zip; application/json json; }}
  access_log off;
  sendfile on;
  sendfile_max_chunk {chunk};
  tcp_nopush {nopush};
  open_file_cache max=1000 inactive=60s;
  open_file_cache_valid 60s;
  keepalive_requests 1000000;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  {cache}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    {tls}
    root {files};
    {proxy}
  }}
}}
"""

_TLS = "ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;"

_PROXY = """
    location /api/ {{
      proxy_pass http://127.0.0.1:{origin};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache packages;
      proxy_cache_valid 200 1h;
      proxy_ignore_headers Cache-Control Expires Vary;
      proxy_cache_lock on;
      proxy_cache_lock_timeout 120s;
      proxy_cache_lock_age 120s;
    }}
"""
