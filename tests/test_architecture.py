"""`docs/architecture.md` against the code: the rooms are those of the code, imports go down only, names exist."""

from __future__ import annotations

import importlib
import re
import tomllib

import pytest

from tests.support.markdown import read, table
from tests.support.modules import imports_of, modules_of
from tests.support.processes import ROOT
from trionode.lifecycle import TRANSITIONS, NodeEvent, NodeState

PAGE = "docs/architecture.md"
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 50


def rooms(name: str) -> list[list[str]]:
    """Return the rooms of a table, a list for each row."""
    return [re.findall(r"`([\w.]+)`", row[0]) for row in table(PAGE, name)]


def room_of(module: str, floors: list[list[str]]) -> int | None:
    """Return the row of a module's room; None for the package itself and its `__main__`."""
    for number, floor in enumerate(floors):
        if any(module == room or module.startswith(f"{room}.") for room in floor):
            return number
    assert module.count(".") == 0 or module.endswith(".__main__"), f"{module} is missing in the rooms of {PAGE}"
    return None


@pytest.mark.parametrize(("package", "name"), [("trionode", "rooms"), ("master_shim", "shim rooms")])
def test_imports_go_down_only(package: str, name: str) -> None:
    floors = rooms(name)
    assert {room for floor in floors for room in floor} <= set(modules_of(package))
    for module in modules_of(package):
        here = room_of(module, floors)
        for imported in imports_of(module, for_type_checkers=True):
            if not imported.startswith(f"{package}.") or here is None:
                continue
            there = room_of(imported, floors)
            same_room = any(module.startswith(room) and imported.startswith(room) for room in floors[here])
            assert there is None or there > here or same_room, f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("package", ["store", "master_shim", "trionode"])
def test_there_is_no_circle(package: str) -> None:
    graph = {module: imports_of(module, for_type_checkers=True) for module in modules_of(package)}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module in done:
            return
        for imported in sorted(graph.get(module, set())):
            # A package's `__init__` imports its modules, which never import the `__init__`.
            visit(imported, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_the_linter_has_the_same_floors() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {contract["containers"][0]: contract["layers"] for contract in contracts if contract.get("containers")}
    for package, name in (("trionode", "rooms"), ("master_shim", "shim rooms")):
        expected = [{room.removeprefix(f"{package}.") for room in floor} for floor in rooms(name)]
        found = [set(layer.split(" | ")) for layer in layers[package] if layer != "__main__"]
        assert found == expected


def test_the_states_of_a_node_are_those_of_the_code() -> None:
    expected = [
        [f"**{state.value}**", *(_shown(TRANSITIONS.get((state, event))) for event in NodeEvent)] for state in NodeState
    ]
    assert table(PAGE, "lifecycle") == expected


def _shown(state: NodeState | None) -> str:
    return "·" if state is None else state.value


def test_every_name_of_the_walks_is_in_the_code() -> None:
    walks = read(PAGE).split("<!-- walk: ")[1:]
    assert len(walks) == 6
    for walk in walks:
        names = re.findall(r"`((?:trionode|store|master_shim)\.[\w.]+)`", walk.split("\n\n")[0])
        assert len(names) >= 4
        for name in names:
            assert resolves(name), f"{PAGE} names {name}, which is not in the code"


def resolves(name: str) -> bool:
    """Return whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@pytest.mark.parametrize("package", ["store", "master_shim", "trionode"])
def test_modules_and_functions_are_short(package: str) -> None:
    import ast

    from tests.support.modules import source_of

    for module in modules_of(package):
        text = source_of(module).read_text(encoding="utf-8")
        assert len(text.splitlines()) <= MAX_MODULE_LINES, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= MAX_FUNCTION_LINES, f"{module}.{node.name} has {length} lines"
