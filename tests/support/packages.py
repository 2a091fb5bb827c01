"""Packages for tests: the demo's generator under the name tests use."""

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
