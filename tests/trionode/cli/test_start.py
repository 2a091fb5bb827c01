"""What an import or a command loads: a command starts fast, since it imports only what it uses.

Each check runs a fresh interpreter and reads its `sys.modules`.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import ROOT

HEAVY = {"quart", "quart_trio", "hypercorn", "trio", "httpx", "structlog", "rich"}
SERVER = {"quart", "quart_trio", "hypercorn", "trio", "httpx"}

REPORT = "\nimport sys; print(*sys.modules, file=sys.stderr)"


def loaded(program: str) -> set[str]:
    """Return the top-level modules that a Python program has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", program + REPORT], capture_output=True, text=True, timeout=30, cwd=ROOT, check=True
    )
    return {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}


def test_the_check_sees_what_is_loaded():
    assert loaded("import trionode.node") >= {"trio", "structlog"}


@pytest.mark.parametrize("module", ["trionode", "trionode.settings", "store", "master_shim"])
def test_an_import_loads_no_library_of_the_server(module: str):
    modules = loaded(f"import {module}")
    assert module.partition(".")[0] in modules
    assert not modules & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["ls", "--help"],
        ["status", "--help"],
        ["sync", "--help"],
        ["drain", "--help"],
        ["serve", "--help"],
        ["--version"],
    ],
)
def test_help_loads_no_library_of_the_server(arguments: list[str]):
    program = f"from trionode.cli.main import main\nassert main({arguments!r}) == 0"
    modules = loaded(program)
    assert "cyclopts" in modules
    assert not modules & SERVER


@pytest.mark.parametrize("command", ["ls", "status", "sync", "gc", "drain"])
def test_a_command_loads_no_library_of_the_server(command: str):
    program = (
        f"from trionode.cli.main import main\nassert main([{command!r}, '--storage-path', '/nowhere']) in {{2, 3}}"
    )
    modules = loaded(program)
    assert "trionode" in modules
    assert not modules & SERVER
