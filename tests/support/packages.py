"""Packages for tests, from the demo's generator."""

from __future__ import annotations

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
]
