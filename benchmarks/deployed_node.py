"""The deployed node's way of fetching and sending packages, and nothing else: FastAPI's FileResponse under uvicorn.

`python -m benchmarks.deployed_node PORT FOLDER [MASTER]` serves `FOLDER/<id>.zip` at the deployed node's URL. A missing
package is fetched from the URL `MASTER`, if given, as the deployed node does: read into memory as a whole, written in
place, and once for each client that finds no file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse


def create_app(folder: Path, master: str | None = None) -> FastAPI:
    """Return the download route over the packages in `folder`."""
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None), trust_env=False)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "healthy"}

    @app.get("/api/v1/meetings/{meeting_id}/download-package")
    async def download(meeting_id: str) -> FileResponse:
        path = folder / f"{meeting_id}.zip"
        if master is not None and not path.exists():
            answer = await client.get(f"{master}/api/v1/meetings/{meeting_id}/download-package-direct")
            if answer.status_code == 200:
                path.write_bytes(answer.content)
        if not path.exists():
            raise HTTPException(404, "Meeting package not found")
        return FileResponse(path, media_type="application/zip", filename=f"meeting_{meeting_id}.zip")

    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(Path(sys.argv[2]), *sys.argv[3:4]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        # A herd that is cut off leaves a hundred fetches behind: do not wait for them.
        timeout_graceful_shutdown=1,
    )
