from __future__ import annotations

import subprocess
import sys


def test_importing_the_store_loads_no_server_and_no_event_loop():
    program = "import sys, store; print(*sorted(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    loaded = set(done.stdout.split())
    assert "store" in loaded
    unwanted = {"anyio", "asyncio", "h11", "httpx", "hypercorn", "quart", "quart_trio", "socket", "ssl", "structlog"}
    assert not loaded & (unwanted | {"trio", "master_shim", "trionode"})
