"""What the deployed node does to send a package, and nothing else: FastAPI's FileResponse on one uvicorn process.

`python -m benchmarks.deployed_node PORT FOLDER` serves `FOLDER/<id>.zip` where the deployed node does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse


def create_app(folder: Path) -> FastAPI:
    """Return the download route over the packages in `folder`."""
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])

    @app.get("/api/v1/meetings/{meeting_id}/download-package")
    async def download(meeting_id: str) -> FileResponse:
        path = folder / f"{meeting_id}.zip"
        if not path.exists():
            raise HTTPException(404, "Meeting package not found")
        return FileResponse(path, media_type="application/zip", filename=f"meeting_{meeting_id}.zip")

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(Path(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
