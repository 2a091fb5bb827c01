"""Calling the shim's application without a server."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

API = "/api/v1"
DATA = random.Random(7).randbytes(300_000)


class Clock:
    """A clock for tests, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def put(folder: Path, name: str, data: bytes = DATA) -> str:
    fresh = folder / ".fresh"
    fresh.write_bytes(data)
    fresh.rename(folder / name)
    return blake3(data).hexdigest()


@asynccontextmanager
async def client_of(app: Any, ip: str = "10.9.9.9") -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, client=(ip, 5000), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://master.lan:8000") as client:
        yield client


async def heartbeat(client: httpx.AsyncClient, name: str, packages: dict[str, str], **fields: Any) -> httpx.Response:
    body = {"node_id": name, "address": f"{name}:8001", "status": "online", "protocol": 1, "packages": packages}
    answer = await client.post(f"{API}/nodes/heartbeat", json={**body, **fields})
    assert answer.status_code == 200, answer.text
    return answer
