"""Who may import whom: the contracts of import-linter, and modules that decide and touch nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

PURE = (
    "store.digest",
    "store.errors",
    "store.interface",
    "store.manifest",
    "store.space",
    "store.splitting",
    "master_shim.balancer",
    "master_shim.byteranges",
    "master_shim.conditional",
    "master_shim.dates",
    "master_shim.errors",
    "master_shim.names",
    "master_shim.protocol",
    "master_shim.registry",
    "master_shim.routes",
    "trionode.delivery.admission",
    "trionode.delivery.limits",
    "trionode.delivery.ranges",
    "trionode.errors",
    "trionode.histogram",
    "trionode.sync.beats",
    "trionode.sync.order",
    "trionode.sync.plan",
)
"""Modules that decide: they take `now` and data. What they import of ours must be one of them as well."""

WITHOUT_IO = {
    "__future__",
    "base64",
    "bisect",
    "blake3",
    "collections",
    "collections.abc",
    "dataclasses",
    "datetime",
    "enum",
    "functools",
    "ipaddress",
    "itertools",
    "math",
    "msgspec",
    "operator",
    "pyfastcdc",
    "re",
    "typing",
    "unicodedata",
    "urllib.parse",
}
"""Modules of others that open no file, socket or process and look at no clock."""


OURS = ("store", "master_shim", "trionode")


def source_of(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports_of(module: str) -> set[str]:
    """Return what a module imports when it runs: full names, without what only a type checker sees."""
    package = module if source_of(module).name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(source_of(module).read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{name}.{alias.name}"
                found.add(inner if name.split(".")[0] in OURS and source_of(inner).exists() else name)
        todo.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_imports_nothing_that_does_io(module: str):
    allowed = WITHOUT_IO | set(PURE)
    assert imports_of(module) <= allowed, f"{module} decides, and may import only what touches nothing"


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_opens_and_prints_nothing(module: str):
    names = {node.id for node in ast.walk(ast.parse(source_of(module).read_text())) if isinstance(node, ast.Name)}
    assert not names & {"open", "print", "input", "exec", "eval", "__import__"}


def test_the_contracts_of_the_layers_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_of_the_layers_sees_a_wrong_import(tmp_path: Path):
    """A contract that cannot fail proves nothing: the store importing the node must break it."""
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
    """A node takes only the types: the app, its thread pool and its loops stay out of its process."""
    program = "import sys, master_shim.protocol; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert not {"anyio", "trio", "httpx", "hypercorn", "quart"} & set(done.stdout.split())
