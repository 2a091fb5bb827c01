"""The shim mounted in a FastAPI master: it answers everything the app itself has no route for.

    PACKAGES=./packages uvicorn examples.fastapi_mount:app --port 8000

Every `<meeting id>.zip` in the folder is a meeting in progress.
"""

from __future__ import annotations

import os

from fastapi import FastAPI

from master_shim import DirectoryPackages, MasterShim

app = FastAPI(title="A master")
shim = MasterShim(packages=DirectoryPackages(os.environ.get("PACKAGES", "packages")))


@app.get("/api/v1/about")
async def about() -> dict[str, str]:
    """Answer a route of the master's own; those defined before the mount come first."""
    return {"name": "a master that had no nodes"}


app.mount("/", shim)
