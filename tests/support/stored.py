"""The package files of a storage folder, and damage to them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packages import Package


def path_of(storage: Path, package: Package) -> Path:
    """Return the file of a package in a storage folder."""
    return storage / "packages" / f"{package.digest}.zip"


def flip(path: Path, offset: int) -> None:
    """Change one bit of a byte in place, like a faulty program or disk."""
    fd = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte ^ 0x40]), offset)
    finally:
        os.close(fd)
