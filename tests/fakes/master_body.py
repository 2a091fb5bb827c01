"""The bodies of the deployed master's package downloads, correct and wrong."""

from __future__ import annotations

import asyncio
import io
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fakes.master_state import Counters, Meeting

BLOCK = 64 * 1024

WRONG_PAGE = b"<!doctype html><title>502</title><h1>Bad Gateway</h1>" * 40


class CutError(Exception):
    """Raised in a body to close the connection before its end."""


def small_zip(name: str, text: str) -> bytes:
    """Return a zip with only the member `name`."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return held.getvalue()


def substitute(mode: str) -> bytes | None:
    """Return the body of a mode that does not send the package, else None."""
    return {
        "error-txt": small_zip("ERROR.txt", "The package could not be built."),
        "readme-only": small_zip("README.txt", "This meeting has no documents."),
        "empty": b"",
        "not-zip": WRONG_PAGE,
    }.get(mode)


async def package_body(meeting: Meeting, mode: str, body: str, rate: float, counters: Counters) -> AsyncIterator[bytes]:
    """Yield the meeting's current package, which has no Content-Length."""
    assert meeting.package is not None
    end = meeting.size // 2 if mode in ("truncated", "cut", "stall") else meeting.size
    sent = 0
    with meeting.package.open("rb") as file:
        while sent < end:
            size = BLOCK if not rate else max(1, min(BLOCK, int(rate / 20)))
            piece = file.readline() if body == "lines" else file.read(size)
            piece = piece[: end - sent]
            if not piece:
                break
            sent += len(piece)
            counters.bytes_sent += len(piece)
            yield piece
            if rate:
                await asyncio.sleep(len(piece) / rate)
    if mode == "cut":
        raise CutError(f"{meeting.id} after {sent} bytes")
    if mode == "stall":
        await asyncio.sleep(3600)
    counters.downloads_finished += 1
