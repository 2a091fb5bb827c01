"""The zip inside a package: whether it is one, and how many files it has."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from store import PackageRejected

if TYPE_CHECKING:
    from store import Readable


def file_names(package: Readable) -> list[str]:
    """Return the names of the files in a zip, from its directory. Raises `PackageRejected`. Reads: use a thread."""
    # The descriptor is shared and must not be moved: /proc opens the same file again, even an unlinked one.
    try:
        with zipfile.ZipFile(f"/proc/self/fd/{package.fileno()}") as archive:
            return [member.filename for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise PackageRejected(f"it does not open as a zip ({error})") from error


def count_files(package: Readable) -> int:
    """Return the number of files in a zip; 0 for a file that is not a zip. Reads: use a thread."""
    try:
        return len(file_names(package))
    except PackageRejected:
        return 0


def check_archive(package: Readable) -> None:
    """Raise `PackageRejected` for a file that is not a package: no zip, an empty one, or one with ERROR.txt only.

    The digest proves that the bytes are the master's, not that they are a package. Reads: use a thread.
    """
    names = file_names(package)
    if not names or set(names) == {"ERROR.txt"}:
        raise PackageRejected("it holds only ERROR.txt" if names else "it holds nothing")
