"""The shim as middleware of an existing FastAPI master: it answers the routes of nodes and downloads, no others.

    PACKAGES=./packages uvicorn examples.fastapi_middleware:app --port 8000

This master decides which meetings are in progress, so it passes the shim a function that finds packages.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

from master_shim import MasterShim, MasterShimMiddleware

FOLDER = Path(os.environ.get("PACKAGES", "packages"))
app = FastAPI(title="A master with routes of its own")


def in_progress() -> dict[str, Path]:
    """Return the meetings in progress and their packages: here, from a folder."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.zip"))}


@app.get("/api/v1/meetings/status/token")
async def status_token() -> dict[str, object]:
    """Return the master's own status, which the shim does not change."""
    meetings = [{"id": name, "title": f"Meeting {name}", "time": ""} for name in in_progress()]
    return {"id": f"token-of-{len(meetings)}" if meetings else "none", "meetings": meetings}


@app.get("/api/v1/meetings/{meeting_id}/download-package")
async def download(meeting_id: str) -> FileResponse:
    """Send the file, as without the shim, which now answers this route."""
    return FileResponse(in_progress()[meeting_id])


async def find_package(meeting_id: str) -> Path | None:
    """Return the package of a meeting for the shim, None if the meeting is not in progress."""
    return in_progress().get(meeting_id)


shim = MasterShim(packages=find_package)
app.add_middleware(MasterShimMiddleware, shim=shim)
