"""The house from the ground up: a file imports only from lower floors, from its own folder, or from its own group.

A new file needs a place in FLOORS. Put it on the lowest line that stands above all it imports.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("evaltk", "pretrain", "protocols", "reports")

# From the ground up, one line a floor. A name that ends in / is a whole folder, whose files may see each other; names
# joined by + are one thing in several files, which may see each other too; all others on a line do not.
FLOORS = """
evaltk/errors evaltk/cores evaltk/threads evaltk/global_streams evaltk/types+evaltk/table+evaltk/deviations evaltk/vmf \
    evaltk/seeding evaltk/progress evaltk/provenance \
    evaltk/plain_pickle evaltk/affinity evaltk/forecast
evaltk/files evaltk/fixed_order evaltk/distributed evaltk/images evaltk/vmf_curves evaltk/torchfile evaltk/official \
    evaltk/metrics/
evaltk/shots evaltk/rawfile evaltk/download evaltk/frames evaltk/duplicates+evaltk/duplicate_graph \
    evaltk/datasets/revisitop
evaltk/models/ evaltk/catalog evaltk/galleries
evaltk/results+evaltk/results_v1 evaltk/families/ evaltk/datasets/
evaltk/checkpoint evaltk/decoding evaltk/feature_store
evaltk/backbone
evaltk/features evaltk/neighbours+evaltk/neighbour_blocks+evaltk/neighbour_faiss evaltk/propagation \
    evaltk/sequence_scores evaltk/void
evaltk/logistic+evaltk/logistic_inputs+evaltk/logistic_path+evaltk/logistic_problem+evaltk/lbfgs \
    evaltk/mixture+evaltk/mixture_fit
evaltk/descriptors evaltk/ranking evaltk/prototype_head evaltk/linear_heads evaltk/measuring \
    evaltk/probe+evaltk/probe_batches+evaltk/probe_store+evaltk/probe_training
evaltk/bench evaltk/prototype_report \
    evaltk/finetuning+evaltk/finetune_batches+evaltk/finetune_judging+evaltk/finetune_training
protocols/ pretrain/
evaltk/planning
evaltk/runner
evaltk/estimates
reports/
evaltk/cli/
"""
# What each package may see of evaltk besides.
ONLY = {
    # duplicates: what a run tells of its prototypes is what is reported of them later.
    # families.random: how an architecture is spelled; rawfile: a training checkpoint is read as any foreign file is.
    "pretrain": "models vmf duplicates datasets seeding distributed types errors files images progress "
    "families.random rawfile cores",
    "reports": "results types deviations errors files metrics.statistics",
}
NEVER = {"protocols": ("evaltk.runner", "evaltk.planning", "evaltk.cli", "reports", "pretrain")}
TORCH = ("torch", "torchvision", "timm")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


FILES = {module_of(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}


@functools.cache
def table() -> dict[str, tuple[int, str]]:
    """{name: (floor, group)} of FLOORS."""
    known: dict[str, tuple[int, str]] = {}
    for floor, line in enumerate(FLOORS.strip().splitlines()):
        for group in line.split():
            for name in group.split("+"):
                assert name not in known, f"{name} stands twice in FLOORS"
                known[name] = (floor, group)
    return known


def place(module: str) -> tuple[int, str] | None:
    """(floor, group) of a module: what stands in FLOORS under its own name, else under the nearest folder's."""
    known = table()
    path = module.removesuffix(".__init__").replace(".", "/")
    if path in known:
        return known[path]
    folders = [f"{path}/", *(f"{parent}/" for parent in Path(path).parents)]
    return next((known[folder] for folder in folders if folder in known), None)


@functools.cache
def imports(path: Path, *, at_import: bool = False) -> frozenset[str]:
    """What a file imports, as far as modules of ours go down to the file; `at_import`: outside functions only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: list[ast.AST] = list(at_once(tree)) if at_import else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES or f"{name}.__init__" in FILES else str(node.module) for name in names}
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


# These two are doors: evaltk/__init__ hands names on when they are asked for, __main__ starts the command line.
@pytest.mark.parametrize("module", [m for m in FILES if m not in ("evaltk.__init__", "evaltk.__main__")])
def test_imports_go_down(module: str) -> None:
    mine = place(module)
    assert mine, f"{module} has no floor: give it a place in FLOORS of {Path(__file__).name}, above all it imports"
    for name in sorted(imports(FILES[module])):
        if name.partition(".")[0] not in PACKAGES or name == "evaltk":
            continue
        theirs = place(name)
        assert theirs, f"{module} imports {name}, which has no floor: give it a place in FLOORS"
        assert theirs[0] < mine[0] or theirs[1] == mine[1], (
            f"{module} (floor {mine[0]}) imports {name} (floor {theirs[0]}): move one of them, or what they share"
        )


@pytest.mark.parametrize("module", [m for m in FILES if m.partition(".")[0] in ONLY])
def test_what_a_package_may_see(module: str) -> None:
    package = module.partition(".")[0]
    allowed = tuple(f"evaltk.{name}" for name in ONLY[package].split())
    seen = {n for n in imports(FILES[module]) if n.partition(".")[0] in PACKAGES and n.partition(".")[0] != package}
    stray = {n for n in seen if not any(n == a or n.startswith(f"{a}.") for a in allowed)}
    assert not stray, f"{module} sees {stray}; {package} may see {ONLY[package]} of evaltk"


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("protocols")])
def test_protocols_see_no_plumbing_and_import_torch_late(module: str) -> None:
    seen = imports(FILES[module])
    assert not [n for n in seen if n.startswith(NEVER["protocols"])]
    assert not {n.partition(".")[0] for n in imports(FILES[module], at_import=True)} & {*TORCH}, (
        f"{module}: import torch inside the functions that need it, so that help and settings are quick"
    )


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("reports")])
def test_reports_know_no_torch(module: str) -> None:
    assert not {n.partition(".")[0] for n in imports(FILES[module])} & {*TORCH}


def test_evaltk_is_a_door_that_opens_late() -> None:
    path = FILES["evaltk.__init__"]
    assert not {n for n in imports(path, at_import=True) if n.partition(".")[0] in (*PACKAGES, *TORCH)}


def test_the_table_names_what_there_is() -> None:
    for name in FLOORS.replace("+", " ").split():
        assert (ROOT / name).is_dir() if name.endswith("/") else (ROOT / f"{name}.py").is_file(), (
            f"{name} stands in FLOORS but not in the house"
        )
