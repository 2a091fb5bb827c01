"""The shim around a Quart-Trio master.

    PACKAGES=./packages hypercorn -k trio examples.quart_middleware:app --bind 127.0.0.1:8000

The shim answers the routes of nodes and downloads, the app all others, including its status.
"""

from __future__ import annotations

import os

from quart_trio import QuartTrio

from master_shim import DirectoryPackages, MasterShim, MasterShimMiddleware

app = QuartTrio(__name__)
shim = MasterShim(packages=DirectoryPackages(os.environ.get("PACKAGES", "packages")))


@app.get("/api/v1/meetings/status/token")
async def status_token() -> dict[str, object]:
    """Return the master's own status, from the packages that the shim finds in the folder."""
    now = await shim.snapshot()
    meetings = [{"id": item.id, "title": item.title, "time": item.time} for item in now.meetings]
    return {"id": now.token, "meetings": meetings}


app.asgi_app = MasterShimMiddleware(app.asgi_app, shim=shim)
