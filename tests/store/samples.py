"""Packages for tests: real zips, generated from a seed so that failures are reproducible."""

from __future__ import annotations

import io
import random
import zipfile

from store.manifest import Manifest
from store.reading import split_bytes


def reader_of(data: bytes):
    def read_into(view: memoryview, offset: int) -> int:
        found = data[offset : offset + len(view)]
        view[: len(found)] = found
        return len(found)

    return read_into


def manifest_of(data: bytes) -> Manifest:
    return split_bytes(reader_of(data), len(data))


def documents(count: int, size: int, seed: int = 0) -> dict[str, bytes]:
    source = random.Random(seed)
    return {f"document-{number}.pdf": source.randbytes(size + number) for number in range(count)}


def make_zip(
    members: dict[str, bytes], *, minute: int = 0, comment: bytes = b"", method: int = zipfile.ZIP_STORED
) -> bytes:
    """A package as the deployed master makes it: first a README.txt with the time, and one date for all members."""
    file = io.BytesIO()
    when = (2026, 11, 24, 9, minute, 0)
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.comment = comment
        for name, data in {"README.txt": b"made at 9:%02d" % minute, **members}.items():
            archive.writestr(zipfile.ZipInfo(name, when), data, compress_type=method)
    return file.getvalue()


def package(seed: int = 0, count: int = 5, size: int = 20_000) -> bytes:
    return make_zip(documents(count, size, seed))


def fill_whole(store, data: bytes) -> Manifest:
    """Commit a package through a fill, as from a shim origin."""
    manifest = manifest_of(data)
    fill = store.begin_fill(manifest)
    try:
        for chunk in fill.missing():
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        fill.commit()
    finally:
        fill.discard()
    return manifest


def stream_whole(store, name: str, data: bytes, step: int = 7_001) -> Manifest:
    """Commit a package through a stream, as from a legacy origin."""
    fill = store.begin_stream(name)
    try:
        for start in range(0, len(data), step):
            fill.append(data[start : start + step])
        return fill.commit()
    finally:
        fill.close()


def only_error() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ERROR.txt", "no documents")
    return file.getvalue()


def only_readme() -> bytes:
    return make_zip({})


VALID_ZIP = make_zip(documents(4, 3_000), comment=b"c" * 20)

_SHARED = documents(4, 1500, seed=3)
SMALL_PACKAGES = [
    make_zip({name: data for name, data in _SHARED.items() if name != f"document-{number}.pdf"}, minute=number)
    for number in range(3)
] + [
    make_zip({"twice.pdf": _SHARED["document-0.pdf"], "again.pdf": _SHARED["document-0.pdf"], "own.pdf": b"o" * 3000}),
    make_zip(documents(6, 1200, seed=4)),
]
"""Packages of a few kilobytes; some have documents in common, one has a document twice."""
