"""The project's modules and what they import, read from their source."""

from __future__ import annotations

import ast
from functools import cache
from typing import TYPE_CHECKING

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

OURS = ("store", "master_shim", "trionode")


def source_of(module: str) -> Path:
    """Return the path of a module's file, which may not exist."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def modules_of(package: str) -> tuple[str, ...]:
    """Return the names of a package's modules, the package itself included."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return tuple(found)


@cache
def imports_of(module: str, *, for_type_checkers: bool = False) -> frozenset[str]:
    """Return the full names of a module's imports; with `for_type_checkers` also those under TYPE_CHECKING.

    Of ours, a name imported from a package is the module of that name if it exists, else the package.
    """
    package = module if source_of(module).name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(source_of(module).read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_type_checkers:
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
    return frozenset(found)
