"""One contract for every protocol, dataset, family, command and public name; and what no source file may do."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import evaltk
import protocols
from evaltk import cli, datasets
from evaltk.checkpoints import families

ROOT = Path(__file__).parents[1]
PACKAGES = ("evaltk", "pretrain", "protocols", "reports")
SOURCES = [p for package in (*PACKAGES, "benchmarks") for p in sorted((ROOT / package).rglob("*.py"))]
OURS = [p for p in SOURCES if p.relative_to(ROOT).parts[0] in PACKAGES]
COMMANDS = sorted(m.name for m in pkgutil.iter_modules(cli.__path__) if not m.name.startswith("_"))
LONGEST_FILE, LONGEST_FUNCTION = 350, 60


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def check_documented(settings: type) -> None:
    """Every field has a line of its own under Attributes: tyro makes the flag's help of it."""
    said = inspect.getdoc(settings) or ""
    for base in settings.__mro__[1:]:
        said += "\n" + (base.__doc__ or "") if dataclasses.is_dataclass(base) else ""
    for field in dataclasses.fields(settings):
        assert re.search(rf"^\s+{field.name}: \S", said, re.MULTILINE), f"{settings}: {field.name} needs a line of help"


@pytest.mark.parametrize("name", protocols.registry())
def test_protocols(name: str) -> None:
    protocol = protocols.registry()[name]
    assert protocol.name == name and protocol.summary.endswith((".", ")", "?"))
    settings = protocol.settings()  # every field has a default
    assert settings.__dataclass_params__.frozen and dataclasses.asdict(settings) is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, dataclasses.fields(settings)[0].name, None)
    check_documented(protocol.settings)
    for hook in ("run", "check", "identity", "check_checkpoint", "extracts", "prepare"):
        assert parameters_of(getattr(protocol, hook)) == HOOKS[hook], hook
    assert dict(protocol.identity(settings)) == {}


HOOKS = {
    "run": ["bench", "dataset", "settings"],
    "check": ["dataset", "settings"],
    "identity": ["settings"],
    "check_checkpoint": ["checkpoint"],
    "extracts": ["bench", "dataset", "settings"],
    "prepare": ["bench", "dataset", "settings"],
}


def parameters_of(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", datasets.registry())
def test_data_sets(name: str) -> None:
    spec = datasets.registry()[name]
    assert parameters_of(spec.load)[:2] == ["root", "label"]
    assert inspect.signature(spec.load).parameters["label"].default == name
    assert spec.summary.endswith(".")
    if spec.needs_path:
        assert "PATH" in spec.where


@pytest.mark.parametrize("name", families.load())
def test_families(name: str) -> None:
    family = families.load()[name]
    if family.claims and family.convert:
        assert parameters_of(family.claims) == ["raw"] and parameters_of(family.convert) == ["raw", "options"]
    if family.scheme and family.from_name:
        assert re.fullmatch(r"[a-z]+", family.scheme) and len(parameters_of(family.from_name)) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"evaltk.cli.{name}")
    first, *rest = (module.__doc__ or "").splitlines()
    assert len(first) <= 120 and first[0].isupper() and cli.commands()[name] == first
    assert any(line.strip() == "Examples:" for line in rest) and f"    evaltk {name}" in (module.__doc__ or "")
    assert list(inspect.signature(module.main).parameters) == ["argv"]
    with pytest.raises(SystemExit) as exit_:
        raise SystemExit(cli.main([name, "--help"]))  # tyro exits by itself, others come back with the code
    assert not exit_.value.code and capsys.readouterr().out.strip()
    if hasattr(module, "Options"):
        assert module.Options.__dataclass_params__.frozen
        check_documented(module.Options)


# DESIGN's public names: parameters by position, then those by name. More may follow where they have defaults.
SIGNATURES = {
    "evaltk.api.evaluate:evaluate": (["model", "data", "protocols"], ["transform", "name", "device", "seed", "out"]),
    "evaltk.api.extract:extract": (["model", "data"], ["part", "recipe", "transform", "name", "device"]),
    "evaltk.checkpoints.load:load_checkpoint": (["path"], ["branch", "num_heads"]),
    "evaltk.models.backbone:build_backbone": (["checkpoint"], ["device", "precision", "position"]),
    "evaltk.models.backbone:build_head": (["checkpoint"], []),
    "evaltk.models.backbone:Backbone.tokens": (["self", "images"], ["last", "norm"]),
    "evaltk.models.backbone:Head.embed": (["self", "cls"], []),
    "evaltk.models.backbone:Head.logits": (["self", "y"], []),
    "evaltk.vmf:log_normalizer": (["kappa", "dim"], []),
    "evaltk.neighbours.exact:search": (["queries", "bank", "k"], ["metric", "backend"]),
    "evaltk.logistic.regression:fit": (["x", "y"], ["l2", "num_classes", "intercept"]),
    "evaltk.metrics.retrieval:evaluate": (["ranks", "gnd"], []),
    "evaltk.metrics.segmentation:region_similarity": (["gt", "pred"], []),
    "evaltk.metrics.segmentation:boundary_similarity": (["gt", "pred"], []),
    "evaltk.metrics.segmentation:frame_statistics": (["values"], []),
    "protocols.knn:knn_votes": (["bank", "labels", "queries", "ks", "temperature", "num_classes"], []),
    "protocols.vos.protocol:propagate": (["backbone", "frames", "first_mask", "settings"], []),
    "protocols.prototypes:duplicate_sets": (["prototypes", "threshold"], ["method"]),
    "pretrain.methods.dino:loss": ([], []),
    "pretrain.methods.ibot:loss": ([], []),
    "pretrain.methods.msn:loss": ([], []),
    "pretrain.centering:update": ([], []),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_signatures(name: str) -> None:
    where, _, path = name.partition(":")
    found = importlib.import_module(where)
    for part in path.split("."):
        found = getattr(found, part)
    by_position, by_name = SIGNATURES[name]
    parameters = inspect.signature(found).parameters  # type: ignore[arg-type]
    assert list(parameters)[: len(by_position)] == by_position
    kinds = [parameters[p].kind for p in by_position]
    assert all(kind == inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)
    assert set(by_name) <= set(parameters)
    assert all(parameters[p].kind == inspect.Parameter.KEYWORD_ONLY for p in by_name)
    if by_position:
        more = [p for n, p in parameters.items() if n not in (*by_position, *by_name)]
        assert all(p.default is not inspect.Parameter.empty for p in more)


def test_the_front_door() -> None:
    for name in ("load_checkpoint", "build_backbone", "build_head", "evaluate", "extract", "EvaltkError"):
        assert callable(getattr(evaltk, name))
    for name in ("vmf", "neighbours", "metrics", "results"):
        assert isinstance(getattr(evaltk, name), ModuleType)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        evaltk.nothing  # noqa: B018
    assert set(evaltk.__all__) <= set(dir(evaltk)) | {n for n in evaltk.__all__ if hasattr(evaltk, n)}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{name_of(path)} says nothing of itself"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name_of(path)}: {node.name} needs a docstring"


def test_files_of_tests_stay_small() -> None:
    long = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in (ROOT / "tests").rglob("*.py")}
    assert not {name: lines for name, lines in long.items() if lines > LONGEST_FILE}, "split it by subject"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE, f"{name_of(path)}: split it by what its parts do"
    for function in functions(tree_of(path)):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= LONGEST_FUNCTION, f"{name_of(path)}: {function.name} has {lines} lines"


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_nothing_in_a_file_is_ever_executed(path: Path) -> None:
    """torch.load in one place and safely, no pickle but through our unpickler, no eval."""
    name, tree = name_of(path), tree_of(path)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert called not in ("eval", "exec", "compile", "__import__"), f"{name}:{node.lineno} {called}"
        assert not re.fullmatch(
            r"(c?pickle|dill|marshal|shelve|joblib|yaml)\.\w*(load|loads|open|Unpickler)", called
        ), f"{name}:{node.lineno} {called}: read it through evaltk/safe_pickle.py"
        if called == "torch.load":
            assert name in ("evaltk/checkpoints/rawfile.py", "evaltk/checkpoints/torchfile.py"), (
                f"{name}:{node.lineno}: use evaltk/checkpoints/rawfile.py"
            )
            assert given.get("weights_only") == "True"
        assert given.get("weights_only", "True") == "True", f"{name}:{node.lineno}"
        assert given.get("allow_pickle", "False") == "False", f"{name}:{node.lineno}"
        assert given.get("shell", "False") == "False", f"{name}:{node.lineno}"


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_print_belongs_to_the_command_line_and_assert_to_us(path: Path) -> None:
    name, tree = name_of(path), tree_of(path)
    printed = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
    assert not printed or name.startswith("evaltk/cli/"), f"{name}: lines {printed}"
    caught = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.type is None]
    assert not caught, f"{name}: bare except in lines {caught}"
    seeded = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in GLOBAL_SEEDS]
    # timm draws from the global generator: inside fork_rng that leaves no trace. A training run owns its process.
    if not name.startswith("pretrain/") and "fork_rng" not in ast.unparse(tree):
        assert not seeded, f"{name}: lines {seeded} seed a global generator; use evaltk.seeding.generator"


GLOBAL_SEEDS = {"torch.manual_seed", "np.random.seed", "numpy.random.seed", "random.seed", "torch.cuda.manual_seed"}


def test_only_the_project_is_spoken_of() -> None:
    stray = re.compile(r"/work/|\.\./shared")
    texts = [p for folder in (*PACKAGES, "tests", "benchmarks") for p in (ROOT / folder).rglob("*")]
    texts += [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "Makefile", "pyproject.toml")]
    for path in texts:
        if path.suffix in (".py", ".md", ".toml", ".csv", "") and path.is_file() and path != Path(__file__):
            assert not stray.search(path.read_text(encoding="utf-8")), name_of(path)
