"""Reading requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from master_shim import DirectoryPackages, MasterShim
from tests.support.shim_app import API

if TYPE_CHECKING:
    pass


async def test_a_body_without_a_length_is_read_no_further_than_the_limit(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    given = 0

    async def receive() -> dict[str, Any]:
        nonlocal given
        given += 1
        return {"type": "http.request", "body": bytes(100_000), "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": f"{API}/nodes/heartbeat", "headers": [], "client": None}
    await MasterShim(DirectoryPackages(tmp_path))(scope, receive, send)
    assert sent[0]["status"] == 413
    assert given == 11
