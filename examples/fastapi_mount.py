"""The shim mounted in a FastAPI master: it answers all requests for which the app has no route.

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
    """Answer one of the master's own routes. Routes defined before the mount take precedence."""
    return {"name": "a master that had no nodes"}


app.mount("/", shim)
