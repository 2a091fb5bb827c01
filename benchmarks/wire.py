"""Bytes fetched for successive rebuilds of a package: the store's manifests against casync, zsync and rsync."""

from __future__ import annotations

import contextlib
import gzip
import re
import shutil
import subprocess
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from benchmarks.common import BenchmarkError, Row
from benchmarks.goals import Figure, Goal
from examples.demo.packages import FIRST_BUILD, Package, make_documents, make_package, rebuild
from master_shim.packages.versions import GZIP_LEVEL
from store import Store, split_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAMS = {"casync": ("casync",), "zsync": ("zsync", "zsyncmake"), "rsync": ("rsync",)}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return its output. Raises `BenchmarkError`."""
    ended = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise BenchmarkError(f"{command[0]}: {ended.stderr.strip()[-1000:]}")
    return ended.stdout


class Ours:
    """A node's store: the manifest, compressed as the shim sends it, and the chunks that no stored version has."""

    def __init__(self, folder: Path, first: Path) -> None:
        self.manifest_bytes = 0
        self._store = Store.open(folder)
        self.fetch(first, first)
        self.manifest_bytes = 0

    def fetch(self, old: Path, new: Path) -> int:
        """Fill the new version. `old` is stored already."""
        del old
        manifest = split_file(new)
        sent = len(gzip.compress(manifest.to_json(), GZIP_LEVEL, mtime=0))
        self.manifest_bytes += sent
        fill = self._store.begin_fill(manifest)
        with new.open("rb") as file:
            for chunk in fill.missing():
                if fill.covered(chunk.offset) < chunk.size:  # not by an identical chunk fetched meanwhile
                    file.seek(chunk.offset)
                    fill.write(chunk, file.read(chunk.size))
                    sent += chunk.size
        fill.commit()
        fill.close()
        return sent


class Casync:
    """casync: the index, and the new chunk files (compressed), of 64 KiB, its default."""

    def __init__(self, folder: Path, first: Path) -> None:
        self._folder = folder
        self._chunks = folder / "chunks"
        self._known: set[Path] = set()
        self.fetch(first, first)

    def fetch(self, old: Path, new: Path) -> int:
        """Make the new version's index, which adds its new chunks to the common chunk folder."""
        del old
        index = self._folder / "index.caibx"
        index.unlink(missing_ok=True)
        run("casync", "make", f"--store={self._chunks}", index, new, cwd=self._folder)
        chunks = set(self._chunks.rglob("*.cacnk"))
        fresh, self._known = chunks - self._known, chunks
        return index.stat().st_size + sum(chunk.stat().st_size for chunk in fresh)


class Zsync:
    """zsync: the control file, and the ranges that a server sent."""

    def __init__(self, folder: Path, first: Path) -> None:
        del first
        self._folder = folder

    def fetch(self, old: Path, new: Path) -> int:
        """Serve the new version and fetch it with the old one as the seed."""
        with serve(new) as server:
            control, made = self._folder / "control.zsync", self._folder / "made.zip"
            url = f"http://127.0.0.1:{server.server_port}/package.zip"
            run("zsyncmake", "-u", url, "-o", control, new, cwd=self._folder)
            run("zsync", "-i", old, "-o", made, control, cwd=self._folder)
            if made.read_bytes() != new.read_bytes():
                raise BenchmarkError("zsync made another file")
            made.unlink()
            return control.stat().st_size + server.sent


class Rsync:
    """rsync: all bytes between sender and receiver, as counted by `--stats`."""

    def __init__(self, folder: Path, first: Path) -> None:
        del first
        self._folder = folder

    def fetch(self, old: Path, new: Path) -> int:
        """Update a copy of the old version with the delta algorithm, as over a network."""
        target = self._folder / "target.zip"
        shutil.copyfile(old, target)
        said = run("rsync", "--no-whole-file", "--ignore-times", "--stats", new, target, cwd=self._folder)
        counts = re.findall(r"^Total bytes (?:sent|received): ([\d,.]+)$", said, re.MULTILINE)
        if len(counts) != 2 or target.read_bytes() != new.read_bytes():
            raise BenchmarkError(f"rsync made another file, or printed an unknown format:\n{said}")
        return sum(int(re.sub(r"\D", "", count)) for count in counts)


class RangeServer(ThreadingHTTPServer):
    """Serves one file, ranges included, and counts the bytes of bodies."""

    def __init__(self, path: Path) -> None:
        super().__init__(("127.0.0.1", 0), RangeHandler)
        self.data = path.read_bytes()
        self.sent = 0
        self.counting = threading.Lock()


class RangeHandler(BaseHTTPRequestHandler):
    """Answers GET with a whole file or the requested ranges."""

    protocol_version = "HTTP/1.1"
    server: RangeServer

    def do_GET(self) -> None:
        """Answer."""
        data, kind = self.server.data, "application/zip"
        ranges = re.findall(r"(\d+)-(\d+)", self.headers.get("Range", ""))
        parts = [(int(first), min(int(last) + 1, len(data))) for first, last in ranges]
        self.send_response(206 if parts else 200)
        body = data
        if len(parts) == 1:
            (start, end) = parts[0]
            body = data[start:end]
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        elif parts:
            kind = "multipart/byteranges; boundary=BOUNDARY"
            body = b"".join(
                b"\r\n--BOUNDARY\r\nContent-Type: application/zip\r\nContent-Range: bytes %d-%d/%d\r\n\r\n%b"
                % (start, end - 1, len(data), data[start:end])
                for start, end in parts
            )
            body += b"\r\n--BOUNDARY--\r\n"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        with self.server.counting:
            self.server.sent += len(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server has
        """Say nothing."""


@contextlib.contextmanager
def serve(path: Path) -> Iterator[RangeServer]:
    """Serve a file on a free port of 127.0.0.1."""
    with RangeServer(path) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def measure(folder: Path, name: str, count: int, size: int, rebuilds: int, goal: Goal | None) -> list[Figure]:
    """Rebuild a package repeatedly, each time with one new document and new times; return the total bytes fetched."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    old = make_package(folder / "0.zip", make_documents(count, size, seed=name), level=1)
    makers = {"casync": Casync, "zsync": Zsync, "rsync": Rsync}
    there = [who for who, programs in PROGRAMS.items() if all(shutil.which(program) for program in programs)]
    for who in [who for who in PROGRAMS if who not in there]:
        print(f"{who} is not installed and not compared")
    for who in ("ours", *there):
        (folder / who).mkdir()
    ours = Ours(folder / "ours", old.path)
    subjects = {"ours": ours, **{who: makers[who](folder / who, old.path) for who in there}}
    fetched = dict.fromkeys(subjects, 0)
    new_bytes = 0
    for number in range(1, rebuilds + 1):
        new = rebuilt(old, folder, number)
        new_bytes += new.new_bytes
        for who, subject in subjects.items():
            fetched[who] += subject.fetch(old.path, new.path)
        old.path.unlink()
        old = new
    shutil.rmtree(folder)
    return figures(f"{rebuilds} rebuilds of {name}", new_bytes, fetched, ours.manifest_bytes, goal)


def rebuilt(old: Package, folder: Path, number: int) -> Package:
    """Rebuild a package an hour later, with another document replaced each time."""
    made_at = FIRST_BUILD + timedelta(hours=number)
    at = number * 7 % len(old.documents)
    return rebuild(old, made_at=made_at, replaced=(at,), path=folder / f"{number}.zip")


def figures(work: str, new_bytes: int, fetched: dict[str, int], manifest_bytes: int, goal: Goal | None) -> list[Figure]:
    """Return bytes and their ratio to the new bytes."""
    found = [Figure(Row(work, "new bytes", "compressed documents", new_bytes / 1e6, "MB"))]
    for who, sent in fetched.items():
        found.append(Figure(Row(work, who, "fetched", sent / 1e6, "MB")))
        row = Row(work, f"{who} / new bytes", "fetched", sent / new_bytes, "times")
        found.append(Figure(row, goal if who == "ours" else None))
    found.append(Figure(Row(work, "ours", "of it manifests, gzip", manifest_bytes / 1e6, "MB")))
    return found
