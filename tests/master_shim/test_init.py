"""What importing the package brings in: little, since masters import the shim, and nodes the protocol."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVERS = {"asyncio", "httpx", "hypercorn", "quart", "rich", "cyclopts", "trio", "trionode"}


def modules_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import master_shim", "from master_shim import DirectoryPackages, MasterShim, MasterShimMiddleware"]
)
def test_the_shim_imports_no_server_and_no_client(statement: str) -> None:
    assert not modules_after(statement) & SERVERS


def test_the_protocol_imports_neither_the_shim_nor_anyio() -> None:
    modules = modules_after(
        "from master_shim import protocol\nfrom master_shim.protocol import answer, conditions, cors, ranges, target"
    )
    assert not modules & {*SERVERS, "anyio", "store", "master_shim.app"}
    assert {name for name in modules if name.startswith("master_shim.")} == {
        "master_shim.protocol",
        *(
            f"master_shim.protocol.{name}"
            for name in ("answer", "conditions", "cors", "messages", "names", "ranges", "target")
        ),
    }


def test_the_command_imports_the_server_only_to_start_it() -> None:
    assert not modules_after("import master_shim.cli") & (SERVERS - {"cyclopts", "rich"})
