"""The allowed imports: the contracts of import-linter, and the pure modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.modules import imports_of, source_of
from tests.support.processes import ROOT

PURE = (
    "store.chunk_index",
    "store.digest",
    "store.errors",
    "store.eviction",
    "store.manifest",
    "store.quota",
    "store.range_set",
    "store.records",
    "store.splitting",
    "master_shim.balancer",
    "master_shim.claims",
    "master_shim.errors",
    "master_shim.node",
    "master_shim.peers",
    "master_shim.protocol",
    "master_shim.protocol.answer",
    "master_shim.protocol.chain",
    "master_shim.protocol.conditions",
    "master_shim.protocol.cors",
    "master_shim.protocol.forwarded",
    "master_shim.protocol.messages",
    "master_shim.protocol.names",
    "master_shim.protocol.ranges",
    "master_shim.protocol.target",
    "master_shim.registry",
    "master_shim.routes",
    "trionode.delivery.admission",
    "trionode.backoff",
    "trionode.delivery.peers",
    "trionode.delivery.rate_limit",
    "trionode.errors",
    "trionode.fetch.routing",
    "trionode.fetch.scheduler",
    "trionode.heartbeat.size_limit",
    "trionode.meetings.poll_plan",
    "trionode.meetings.states",
    "trionode.stats",
    "trionode.token_bucket",
)
"""Modules that only decide, from data and `now`. Of ours, they import only each other."""

WITHOUT_IO = {
    "__future__",
    "base64",
    "bisect",
    "blake3",
    "collections",
    "collections.abc",
    "contextlib",
    "dataclasses",
    "datetime",
    "email.utils",
    "enum",
    "errno",
    "functools",
    "ipaddress",
    "itertools",
    "math",
    "msgspec",
    "operator",
    "pyfastcdc",
    "re",
    "threading",
    "typing",
    "unicodedata",
    "urllib.parse",
}
"""Third-party and standard modules that open no file, socket or process and read no clock."""


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_imports_nothing_that_does_io(module: str):
    allowed = WITHOUT_IO | set(PURE)
    assert imports_of(module) <= allowed, f"{module} is pure, and may import only modules without I/O"


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_opens_and_prints_nothing(module: str):
    names = {node.id for node in ast.walk(ast.parse(source_of(module).read_text())) if isinstance(node, ast.Name)}
    assert not names & {"open", "print", "input", "exec", "eval", "__import__"}


def test_the_contracts_of_the_layers_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_of_the_layers_sees_a_wrong_import(tmp_path: Path):
    """Check that the contracts can fail: by an import of the node in the store."""
    for package in ("master_shim", "trionode"):
        (tmp_path / package).symlink_to(ROOT / package)
    broken = tmp_path / "store"
    broken.mkdir()
    for path in (ROOT / "store").glob("*.py"):
        (broken / path.name).write_text(path.read_text())
    with (broken / "digest.py").open("a") as file:
        file.write("\nimport trionode.errors\nimport trio\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "store.digest -> trionode.errors" in done.stdout
    assert "store.digest -> trio" in done.stdout


def test_importing_the_shim_s_wire_types_loads_no_server():
    """A node imports the types only: not the app, its thread pool and its loops."""
    program = "import sys, master_shim.protocol; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert not {"anyio", "trio", "httpx", "hypercorn", "quart"} & set(done.stdout.split())
