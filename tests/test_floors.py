"""The layers of the code: a package imports only from lower floors, and no files import each other round a circle.

A file in a folder that is listed needs no entry of its own.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("evaltk", "pretrain", "protocols", "reports")

# From the ground up, one line a floor; packages on a line do not see each other. A name stands for all files below it
# that no longer name covers: `evaltk` for the files directly in evaltk/.
FLOORS = """
evaltk
evaltk.metrics
evaltk.models evaltk.logistic
evaltk.checkpoints evaltk.data evaltk.neighbours
evaltk.results evaltk.datasets evaltk.features evaltk.prototypes
evaltk.bench
protocols pretrain
evaltk.running
reports
evaltk.api evaltk.pictures
evaltk.cli
"""
FLOOR = {name: floor for floor, line in enumerate(FLOORS.strip().splitlines()) for name in line.split()}
DOORS = ("evaltk", "evaltk.__main__")  # one hands names on when they are asked for, the other starts the command line
# What a package may see of evaltk.
ONLY = {
    # prototypes.duplicates: duplicates are counted in training as they are evaluated later; checkpoints: how an
    # architecture is spelled, and a training checkpoint is read as any foreign file is.
    "pretrain": "models vmf prototypes.duplicates datasets data seeding distributed types errors files progress "
    "checkpoints.families.random checkpoints.rawfile cores machine plugins checksums owned processes arguments sending "
    "streams crew durations launchers safe_json safe_toml",
    "reports": "results types deviations errors files metrics.statistics metrics.calibration durations safe_json "
    "safe_toml",
}
NEVER = {"protocols": ("evaltk.running", "evaltk.cli", "reports", "pretrain")}
TORCH = ("torch", "torchvision", "timm")
# Files of protocols that help, `ls` and finished runs go through: torch is imported in functions there.
LIGHT = ("__init__", "settings", "protocol", "knn", "precision", "geometry", "clustering", "copies")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}


def floor(module: str) -> tuple[int, str]:
    """(floor, package) of a module: the longest name in FLOORS that covers it."""
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    name = next(name for name in names if name in FLOOR)
    return FLOOR[name], name


@functools.cache
def imports(module: str, *, at_import: bool = False) -> frozenset[str]:
    """What a module imports, down to the file for ours; `at_import`: outside functions only."""
    path = FILES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: list[ast.AST] = list(at_once(tree)) if at_import else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else str(node.module) for name in names}
    return frozenset(found)


def at_once(tree: ast.AST) -> list[ast.AST]:
    """The statements that run when the file is imported: not in functions, not for the type checker alone."""
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        found += [node, *at_once(node)]
    return found


@pytest.mark.parametrize("module", [m for m in FILES if m not in DOORS])
def test_imports_go_down(module: str) -> None:
    mine = floor(module)
    for name in sorted(imports(module)):
        if name.partition(".")[0] not in PACKAGES or name == "evaltk":
            continue
        theirs = floor(name)
        assert theirs[0] < mine[0] or theirs[1] == mine[1], (
            f"{module} (floor {mine[0]}) imports {name} (floor {theirs[0]}): move one of them, or what they share"
        )


def test_no_files_import_each_other_round_a_circle() -> None:
    """Imports in functions and for the type checker count: a circle that is put off is still one."""
    graph = {m: {n for n in imports(m) if n in FILES and n not in (m, *DOORS)} for m in FILES if m not in DOORS}
    # A package's __init__ is run before any file of it: importing evaltk.data.images is no use of evaltk.data's names.
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for name in sorted(graph[module]):
                walk(name, (*way, module))
            done.add(module)

    for module in graph:
        walk(module, ())


@pytest.mark.parametrize("module", [m for m in FILES if m.partition(".")[0] in ONLY])
def test_what_a_package_may_see(module: str) -> None:
    package = module.partition(".")[0]
    allowed = tuple(f"evaltk.{name}" for name in ONLY[package].split())
    seen = {n for n in imports(module) if n.partition(".")[0] in PACKAGES and n.partition(".")[0] != package}
    stray = {n for n in seen if not any(n == a or n.startswith(f"{a}.") for a in allowed)}
    assert not stray, f"{module} sees {stray}; {package} may see {ONLY[package]} of evaltk"


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("protocols")])
def test_protocols_see_no_plumbing_and_import_torch_late(module: str) -> None:
    assert not [n for n in imports(module) if n.startswith(NEVER["protocols"])]
    if module.rpartition(".")[2] in LIGHT or FILES[module].name == "__init__.py":
        assert not {n.partition(".")[0] for n in imports(module, at_import=True)} & {*TORCH}, (
            f"{module}: import torch inside the functions that need it, so that help and settings are quick"
        )


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("reports")])
def test_reports_know_no_torch(module: str) -> None:
    assert not {n.partition(".")[0] for n in imports(module)} & {*TORCH}


def test_evaltk_is_a_door_that_opens_late() -> None:
    assert not {n for n in imports("evaltk", at_import=True) if n.partition(".")[0] in (*PACKAGES, *TORCH)}


def test_the_floors_name_what_there_is() -> None:
    for name in FLOOR:
        assert name in FILES, f"{name} stands in FLOORS but not in the code"
