"""How many documents a package holds, for `/api/status`."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from store import PackageRejected

if TYPE_CHECKING:
    from store import Readable


def member_names(package: Readable) -> list[str]:
    """Return the names of the files in a zip, from its directory. Raises `PackageRejected`. Reads: use a thread."""
    # The descriptor is shared and must not be moved: /proc opens the same file, even an unlinked one, anew.
    try:
        with zipfile.ZipFile(f"/proc/self/fd/{package.fileno()}") as archive:
            return [member.filename for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise PackageRejected(f"it does not open as a zip ({error})") from error


def count_members(package: Readable) -> int:
    """Return the number of files in a zip; 0 when it is none. Reads: call it in a thread."""
    try:
        return len(member_names(package))
    except PackageRejected:
        return 0


def check_members(package: Readable) -> None:
    """See that a file whose bytes are right is a package at all. Raises `PackageRejected`. Reads: call it in a thread.

    Its digest says that these are the master's bytes, and not that the master has built a package of them.
    """
    names = member_names(package)
    if not names or set(names) == {"ERROR.txt"}:
        raise PackageRejected("it holds only ERROR.txt" if names else "it holds nothing")
