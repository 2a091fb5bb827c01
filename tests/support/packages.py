"""Packages for tests, from the demo's generator."""

from __future__ import annotations

import io
import zipfile

from examples.demo.packages import (
    FIRST_BUILD,
    README_NAME,
    Document,
    Package,
    file_digest,
    make_documents,
    make_package,
    rebuild,
)

__all__ = [
    "FIRST_BUILD",
    "README_NAME",
    "Document",
    "Package",
    "file_digest",
    "make_documents",
    "make_package",
    "rebuild",
    "zip_of",
]


def zip_of(data: bytes) -> bytes:
    """Return a zip with one member that has these bytes, uncompressed."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo("document.pdf"), data)
    return made.getvalue()
