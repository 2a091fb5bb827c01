"""Sending packages, called as a server calls it, under asyncio and Trio."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from master_shim import DirectoryPackages, MasterShim
from master_shim.handlers import sending
from master_shim.handlers.sending import MIN_WINDOW_BYTES, READ_AHEAD_BYTES, WINDOW_BYTES, PackageSender
from tests.support.shim_app import API, put

Send = Callable[[Any], Awaitable[None]]


async def call(shim: MasterShim, path: str, send: Send, receive: Any = None) -> None:
    async def wait() -> Any:
        await anyio.sleep_forever()

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "client": None, "root_path": ""}
    await shim(scope, receive or wait, send)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_answer_is_cut_off_if_its_file_is_overwritten(tmp_path: Path, backend: str) -> None:
    """Every byte sent is of the advertised version, and the body is shorter than advertised."""
    big = random.Random(3).randbytes(5 * 1024 * 1024)
    put(tmp_path, "m.zip", big)
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if len(sent) == 3:
            with (tmp_path / "m.zip").open("r+b") as file:
                file.write(bytes(len(big)))

    async def main() -> None:
        shim = MasterShim(DirectoryPackages(tmp_path))
        await call(shim, f"{API}/meetings/m/download-package", send)
        assert shim.active_downloads == 0

    anyio.run(main, backend=backend)
    body = b"".join(message["body"] for message in sent[1:])
    assert len(sent) == 3
    assert body == big[: len(body)]
    assert sent[-1]["more_body"] is True


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_reading_stops_when_the_client_disconnects(tmp_path: Path, backend: str) -> None:
    put(tmp_path, "m.zip", bytes(8 * 1024 * 1024))

    async def main() -> None:
        gone = anyio.Event()
        count = 0

        async def send(message: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            if count == 3:
                gone.set()
            await anyio.sleep(0)  # as servers do: they discard what is sent after a disconnect

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        shim = MasterShim(DirectoryPackages(tmp_path))
        await call(shim, f"{API}/meetings/m/download-package", send, receive)
        assert count <= 5
        assert shim.active_downloads == 0

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_client_that_never_takes_the_end_is_given_up(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last message of an HTTP/2 stream waits until the client has taken everything."""
    monkeypatch.setattr(sending, "SEND_SECONDS", 0.2)
    put(tmp_path, "m.zip", bytes(1000))

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            await anyio.sleep_forever()

    async def main() -> None:
        shim = MasterShim(DirectoryPackages(tmp_path))
        with anyio.fail_after(20):
            await call(shim, f"{API}/meetings/m/download-package", send)
        assert shim.active_downloads == 0

    anyio.run(main, backend=backend)


async def test_windows_shrink_with_many_downloads(tmp_path: Path) -> None:
    sender = PackageSender()
    for active, wanted in (
        (0, WINDOW_BYTES),
        (16, WINDOW_BYTES),
        (64, READ_AHEAD_BYTES // 64),
        (9999, MIN_WINDOW_BYTES),
    ):
        sender.active = active
        assert sender.window_bytes() == wanted
