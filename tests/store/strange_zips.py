"""Zips of other programs, and files that are no packages; used with every origin."""

from __future__ import annotations

import copy
import io
import struct
import zipfile

from tests.store.samples import documents, make_zip, only_error, package

LOCAL, ENTRY = b"PK\3\4", b"PK\1\2"


def overlapping(count: int, size: int) -> bytes:
    """Return a zip of `count` members that are all the same bytes of the file, which unpack to `size` bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("0", bytes(size))
        for number in range(1, count):
            twin = copy.copy(archive.filelist[0])
            twin.filename = twin.orig_filename = str(number)
            archive.filelist.append(twin)
    return file.getvalue()


def changed(seed: int, *changes: tuple[bytes, int, bytes]) -> bytes:
    """Return a package with other bytes at offsets in the last record of a signature."""
    data = bytearray(package(seed=seed, count=2, size=5_000))
    for signature, offset, value in changes:
        at = data.rindex(signature) + offset
        data[at : at + len(value)] = value
    return bytes(data)


def nameless() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"a file without a name")
    return file.getvalue()


def folders() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("folder/", b"")
    return file.getvalue()


def cut_behind_a_zip() -> bytes:
    inner = make_zip(documents(1, 200))
    outer = make_zip({"inner.zip": inner, "other.pdf": bytes(500)})
    return outer[: outer.index(inner) + len(inner) + 40]


STRANGE = {
    "empty-name": nameless(),
    "other-name-in-the-local-header": changed(1, (LOCAL, 30, b"a/b"), (ENTRY, 46, b"a\\b")),
    "name-not-utf-8": changed(2, (LOCAL, 30, b"\xff\xfe"), (ENTRY, 46, b"\xff\xfe"), (ENTRY, 8, b"\0\x08")),
    "version": changed(3, (ENTRY, 6, b"\xc8")),
    "extra-field": changed(4, (ENTRY, 28, struct.pack("<HH", 14 - 4, 4)), (ENTRY, 56, b"\1\0\xff\xff")),
    "checksum-only-in-the-local-header": changed(5, (ENTRY, 16, b"\0\0\0\0")),
    "bytes-behind": package(seed=6) + b"\r\n" * 1_000,
    "bytes-before": b"#!/bin/sh\nexit\n" + package(seed=7),
    "comment-cut": make_zip(documents(1, 3_000, seed=8), comment=b"c" * 20)[:-10],
}
"""Packages that `zipfile`, `unzip` or `7z` opens, by a meeting id that says what is strange about them."""

NO_PACKAGES = {
    "web-page": (b"<html>502 Bad Gateway</html>", "it is not a zip, or its end is missing"),
    "no-members": (b"PK\5\6" + bytes(18), "it holds no files"),
    "only-folders": (folders(), "it holds no files"),
    "only-error": (only_error(), "it holds only ERROR.txt"),
    "damaged-directory": (changed(11, (ENTRY, 0, b"XX")), "its directory is damaged"),
    "cut-behind-a-zip-in-it": (cut_behind_a_zip(), "it is cut off"),
    "false-offset": (changed(12, (ENTRY, 42, b"\1")), "is not where its directory says"),
    "false-size": (changed(13, (ENTRY, 20, b"\xff\xff")), "is truncated, or overlaps the directory"),
    "overlapping": (overlapping(2_000, 10_000_000), "overlap"),
    "too-much": (changed(14, (ENTRY, 24, b"\xff\xff\xff\x7f")), "it unpacks to more than"),
}
"""Files that are no packages, and the reason, by a meeting id that says what is wrong with them."""
