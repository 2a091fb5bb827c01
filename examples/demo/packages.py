"""Make meeting packages like those of a master: zips of PDF documents, the same bytes for the same seed.

Used by the demo and by the tests. A package's first member is a README.txt with the time of generation, every member is
deflated and has that time, and sizes are in the local headers, as Python's `zipfile` writes them to a file. So a
rebuilt package differs in many bytes although its documents are the same.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

FIRST_BUILD = datetime(2026, 11, 2, 9, 0, 0, tzinfo=UTC)
"""Default time, so that packages are the same on every machine."""

README_NAME = "README.txt"


@dataclass(frozen=True, slots=True)
class Document:
    """A document of about `size` incompressible bytes, determined by `seed`."""

    name: str
    size: int
    seed: str

    def content(self) -> bytes:
        """Return a valid one-page PDF, filled up to `size` bytes with noise."""
        return pdf(self.name, blake3(self.seed.encode()).digest(length=max(self.size - PDF_OVERHEAD, 0)))


@dataclass(frozen=True, slots=True)
class Package:
    """A package on disk. `digest` is its BLAKE3 digest, `size` its bytes.

    `new_bytes` is the compressed data of the members that the package it was rebuilt from does not have (of all, for a
    first one). Zip headers and directory are not counted.
    """

    path: Path
    digest: str
    size: int
    new_bytes: int
    documents: tuple[Document, ...] = field(repr=False)
    made_at: datetime
    level: int | None = None


PDF_OVERHEAD = 800
"""Approximate size of the PDF without the noise."""


def pdf(title: str, noise: bytes) -> bytes:
    """Return a one-page PDF that shows `title` and has `noise` in an unused stream."""
    shown = title.encode("ascii", "replace").replace(b"\\", b"").replace(b"(", b"").replace(b")", b"")
    text = b"BT /F1 24 Tf 60 760 Td (" + shown + b") Tj ET"
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%b\nendstream" % (len(text), text),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<</Length %d>>stream\n%b\nendstream" % (len(noise), noise),
    )
    parts = [b"%PDF-1.7\n"]
    offsets: list[int] = []
    at = len(parts[0])
    for number, body in enumerate(objects, 1):
        parts.append(b"%d 0 obj\n%b\nendobj\n" % (number, body))
        offsets.append(at)
        at += len(parts[-1])
    entries = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    parts.append(b"xref\n0 %d\n0000000000 65535 f \n%b" % (len(objects) + 1, entries))
    parts.append(b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, at))
    return b"".join(parts)


def make_documents(count: int, size: int, *, seed: str = "") -> tuple[Document, ...]:
    """Return `count` documents of about `size` bytes each, determined by `seed`."""
    return tuple(Document(f"{number:03d}-document.pdf", size, f"{seed}/{number}") for number in range(1, count + 1))


def make_package(
    path: Path,
    documents: Sequence[Document],
    *,
    made_at: datetime = FIRST_BUILD,
    title: str = "Meeting",
    level: int | None = None,
    replaces: Package | None = None,
) -> Package:
    """Write the zip of `documents` to `path` by an atomic rename, and return the package.

    `level` is zlib's (None: its default, 6, as in the deployed master; 1 is faster for large packages).
    With `replaces`, `new_bytes` counts only what that package does not have.
    """
    old = dict.fromkeys(replaces.documents) if replaces else {}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    stamp = made_at.timetuple()[:6]
    new_bytes = 0
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
            readme = f"{title}\nGenerated: {made_at.isoformat()}\nDocuments: {len(documents)}\n"
            new_bytes += _add(archive, README_NAME, readme.encode(), stamp, level)
            for document in documents:
                compressed = _add(archive, document.name, document.content(), stamp, level)
                new_bytes += 0 if document in old else compressed
        digest = file_digest(temporary)
        size = temporary.stat().st_size
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Package(path, digest, size, new_bytes, tuple(documents), made_at, level)


def _add(archive: zipfile.ZipFile, name: str, data: bytes, stamp: tuple[int, ...], level: int | None) -> int:
    """Write one member and return the size of its data in the zip."""
    year, month, day, hour, minute, second = stamp
    info = zipfile.ZipInfo(name, (year, month, day, hour, minute, second))
    info.external_attr = 0o644 << 16
    archive.writestr(info, data, zipfile.ZIP_DEFLATED, level)
    return info.compress_size


def rebuild(
    package: Package,
    *,
    made_at: datetime,
    replaced: Iterable[int] = (0,),
    added: int = 0,
    path: Path | None = None,
    title: str = "Meeting",
) -> Package:
    """Rebuild `package` as a master does after an edit: all time stamps and some documents are new.

    `replaced` are the indexes of documents that get new content of the same size, `added` is the number of appended
    ones. Replaces the package (by a rename) unless `path` is given.
    """
    documents = list(package.documents)
    edition = made_at.isoformat()
    for index in replaced:
        documents[index] = replace(documents[index], seed=f"{documents[index].seed}@{edition}")
    for number in range(len(documents) + 1, len(documents) + added + 1):
        documents.append(Document(f"{number:03d}-added.pdf", documents[0].size, f"added/{number}@{edition}"))
    target = path or package.path
    return make_package(target, documents, made_at=made_at, title=title, level=package.level, replaces=package)


def file_digest(path: Path) -> str:
    """Return the BLAKE3 digest of a file, in hexadecimal."""
    return blake3().update_mmap(path).hexdigest()
