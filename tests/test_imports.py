"""The arrows of the architecture point one way; this walks every import in the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "sigmaquant"
SRC = Path(__file__).resolve().parent.parent / "src" / PACKAGE

# A room may import from rooms of a lower floor, and from itself. Rooms of one floor do not know each other.
FLOORS = (
    {"errors", "_version"},
    {"units", "json_text", "terminal"},
    {"plan", "budget"},
    {"numerics", "exported", "parallel"},
    {"operators"},
    {"data", "runs", "graph", "outputs"},
    {"quant", "tasks"},
    {"statistics", "training", "hardware", "reconstruction"},
    {"characterization", "pruning"},
    {"search"},
    {"lowering"},
    {"export"},
    {"report", "measurement"},
    {"frontends"},
    {"workflow"},
    {"nested"},
    {"api", "sweeping"},
    {"tables"},
    {"cli"},
    {"__init__", "__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
WITHOUT_TORCH = ("errors", "units", "json_text", "plan", "budget", "_version")


def name_of(path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(SRC).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {name_of(path): path for path in sorted(SRC.rglob("*.py"))}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(tree: ast.AST, *, run_time_only: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported; with `run_time_only`, what importing the module itself imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if full in MODULES else str(node.module)
        elif not (
            run_time_only and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node))
        ):
            yield from imports(node, run_time_only=run_time_only)


def internal(module: str, *, run_time_only: bool = False) -> Iterator[tuple[int, str]]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for line, name in imports(tree, run_time_only=run_time_only):
        if name == PACKAGE or name.startswith(PACKAGE + "."):
            yield line, name


def test_every_room_has_its_floor() -> None:
    assert {room_of(module) for module in MODULES} <= set(FLOOR), "a new room: put it into FLOORS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    room = room_of(module)
    for line, name in internal(module):
        other = room_of(name)
        place = f"{MODULES[module].relative_to(SRC)}:{line}"
        assert name in MODULES or name == PACKAGE, f"{place} imports {name}, which does not exist"
        assert other == room or FLOOR[other] < FLOOR[room], f"{place}: {room} must not import {other}"


@pytest.mark.parametrize("room", ["data", "runs"])
def test_low_rooms_know_only_the_values(room: str) -> None:
    for module in MODULES:
        if room_of(module) == room:
            others = {room_of(name) for _, name in internal(module)} - {room}
            assert others <= {"errors", "units", "json_text", "plan", "budget", "_version"}, module


def test_who_characterizes_is_known_to_the_command_line_alone() -> None:
    """A profile is used without a cell library, a synthesis tool, or the simulator of gates."""
    users = {
        room_of(module) for module in MODULES for _, name in internal(module) if room_of(name) == "characterization"
    }
    assert users == {"characterization", "cli"}


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) in WITHOUT_TORCH])
def test_values_need_no_torch(module: str) -> None:
    for line, name in imports(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        assert name.split(".")[0] not in {"torch", "numpy", "safetensors"}, f"{module}, line {line}"


def test_no_cycles() -> None:
    graph = {module: {name for _, name in internal(module, run_time_only=True)} for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "cycle: " + " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in sorted(graph.get(module, ())):
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_walk_sees_imports_of_every_kind() -> None:
    code = """
import torch
from sigmaquant import plan
from sigmaquant.errors import PlanError
def f():
    from sigmaquant.units import parse_size
if TYPE_CHECKING:
    from sigmaquant.budget import Budget
class A:
    import json
"""
    tree = ast.parse(code)
    names = ["torch", "sigmaquant.plan", "sigmaquant.errors", "sigmaquant.units", "sigmaquant.budget", "json"]
    assert [name for _, name in imports(tree)] == names
    assert [name for _, name in imports(tree, run_time_only=True)] == [*names[:3], "json"]


@pytest.mark.parametrize("library", ["scipy", "plotly", "ray"])
def test_slow_libraries_are_imported_by_whom_they_serve(library: str) -> None:
    """What the package or its command line imports when it starts; the solver is a module of its own."""
    seen: set[str] = set()

    def visit(module: str) -> None:
        if module in MODULES and module not in seen:
            seen.add(module)
            tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
            for line, name in imports(tree, run_time_only=True):
                assert name.split(".")[0] != library, f"{module}, line {line}: every start pays for it"
                visit(name)

    visit("sigmaquant.cli.program")
    assert {"sigmaquant.cli.program", "sigmaquant.api", "sigmaquant.search.strategies"} <= seen
    assert "sigmaquant.search.ilp" not in seen
