"""The paper's story on scikit-learn's digits, on a CPU in minutes.

Trains DINO and DINO-vMF side by side, looks at what becomes of their prototypes, compares both nets with raw pixels and
a random net, writes a page with tables and figures, and says in five lines what was seen.

Examples:
    evaltk demo
    evaltk demo --out runs/short --epochs 2
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evaltk.cli import _options
from evaltk.cli._shown import print_tables
from evaltk.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaltk.running.runner import Plan
    from evaltk.types import Result
    from pretrain.recipe import Recipe

RECIPES = ("demo_dino", "demo_dino_vmf")
IMAGES = 1000  # of digits to train on
NAMES = ("DINO", "DINO-vMF")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train DINO and DINO-vMF, and compare their prototypes, and both nets with raw pixels and a random net.

    Attributes:
        out: folder of the demo's checkpoints, cache and results.
        epochs: epochs of the two pretraining runs (default: the recipes').
        protocols: what to measure; prototypes looks at the two trained nets only.
        seed: seed of the two trainings.
        again: redo finished evaluations.
        device: auto (cuda, else mps, else cpu) or cpu, mps, cuda, cuda:N.
    """

    out: Path = Path("runs/demo")
    epochs: int | None = None
    protocols: tuple[Literal["knn", "linear", "fewshot", "transfer", "prototypes"], ...] = (
        "knn",
        "linear",
        "fewshot",
        "prototypes",
    )
    seed: int = 0
    again: bool = False
    device: str = field(default="auto", metadata={"metavar": "DEVICE"})


def main(argv: list[str]) -> int:
    """Train where that is not done, evaluate all, show prototypes, and say what was seen. Returns: 0, or 75, 130."""
    from evaltk import files, results
    from evaltk.pictures.thumbnails import Finder
    from evaltk.progress import log
    from evaltk.running import runner
    from reports.page.build import build_page

    options = _options.parse(Options, argv, "demo", __doc__)
    if options.epochs is not None and options.epochs < 1:
        raise SettingsError(wanted="1 or more", got=str(options.epochs), where="--epochs", do="--epochs 10")
    recipes = [_recipe(name, options) for name in RECIPES]
    code = _pretrain(recipes, options)
    if code:
        return code
    plan, heads = _plans(recipes, options)
    shown: list[tuple[Path, Result]] = []
    for part in (part for part in (heads, plan) if part.protocols):
        runner.run(part, report=lambda job, result, skipped: shown.append((job.path, result)))
    print_tables(shown)
    drawn = _figures(shown, options.out)
    page_path = options.out / "report.html"
    files.write_text(
        page_path, build_page(list(results.find(plan.out)), runs=options.out, find=Finder.of(("digits",), plan.cache))
    )
    for path in (*drawn, page_path):
        log.info("wrote %s", path)
    log.info("look at a checkpoint: evaltk inspect %s", heads.checkpoints[-1])
    log.info("results: %s (print them again: evaltk table --runs %s)", plan.out, plan.out)
    print("\n" + "\n".join(_story([result for _, result in shown], plan.checkpoints)))
    return 0


def _plans(recipes: Sequence[Recipe], options: Options) -> tuple[Plan, Plan]:
    """(what all four are measured by, what the two trained ones are)."""
    from evaltk.running.runner import Plan
    from protocols import fewshot, knn, linear, prototypes, transfer

    trained = tuple(str(options.out / recipe.name / "checkpoint.pth") for recipe in recipes)
    # The temperature that the teachers were trained with.
    temperature = (recipes[0].method.teacher_temp_end,)
    settings: dict[str, Any] = {
        "knn": knn.Settings(),
        "linear": linear.Settings(fast=True),
        "fewshot": fewshot.Settings(),
        "transfer": transfer.Settings(),
        "prototypes": prototypes.Settings(temperature=temperature, thresholds=(0.5, 0.7, 0.9, 0.99)),
    }
    plan = Plan(
        checkpoints=("pixels:8", f"random:{recipes[0].net.arch}", *trained),
        protocols={name: settings[name] for name in options.protocols if name != "prototypes"},
        data=("digits",),
        out=options.out / "results",
        cache=options.out / "cache",
        again=options.again,
        device=options.device,
    )
    of_heads: dict[str, Any] = {name: settings[name] for name in options.protocols if name == "prototypes"}
    return plan, dataclasses.replace(plan, checkpoints=trained, protocols=of_heads)


def _figures(shown: Sequence[tuple[Path, Result]], out: Path) -> list[Path]:
    """The course of the trainings, and of each net what its prototypes hold; as PNG."""
    from reports.figures import collect, course, style, training_log

    drawn = course.of_logs(training_log.courses_under(out))
    drawn += [one for one in collect.of_analyses(shown) if one.name.startswith(("gallery", "similarity", "usage"))]
    return [path for one in drawn for path in style.save(one.figure, out / "figures" / one.name, ("png",))]


def _story(results: Sequence[Result], checkpoints: Sequence[str]) -> list[str]:
    """The five closing lines, from the results of this run."""
    from reports import story

    found: dict[str, dict[str, Result]] = {}
    for result in results:
        found.setdefault(str(result.checkpoint["name"]), {})[result.protocol] = result
    trained = [
        story.Subject(name=n, results=found.get(f"{r}/checkpoint", {})) for n, r in zip(NAMES, RECIPES, strict=True)
    ]
    floors = [story.Subject(name=name, results=found.get(name, {})) for name in checkpoints[:2]]
    called = {checkpoints[0]: "raw pixels", checkpoints[1]: "a random net"}
    floors = [dataclasses.replace(floor, name=called[floor.name]) for floor in floors]
    return story.lines(trained[0], trained[1], floors)


def _recipe(name: str, options: Options) -> Recipe:
    from pretrain import recipe

    sets = [f"run.seed={options.seed}"]
    if options.epochs is not None:
        sets += [f"optim.epochs={options.epochs}", f"optim.warmup_epochs={min(1, options.epochs)}"]
    return recipe.load(name, sets)


def _pretrain(recipes: Sequence[Recipe], options: Options) -> int:
    """Train those whose folder does not hold the end of its run. Returns: 0, or 75 or 130 where a signal stopped it."""
    from evaltk.cli import _side_by_side
    from evaltk.machine import resolve_device
    from evaltk.progress import log
    from pretrain import checkpoint as saving
    from pretrain import sameness

    left: dict[Path, Recipe] = {}
    for recipe in recipes:
        folder = options.out / recipe.name
        path = saving.newest(folder)
        if path is not None:
            tree = saving.read(path)
            sameness.check_recipe(tree, recipe, path)
            if tree["epoch"] == recipe.optim.epochs:
                log.info("%s is trained: %s", recipe.name, path)
                continue
        log.info("pretraining %s, %d epochs, into %s", recipe.name, recipe.optim.epochs, folder)
        left[folder] = recipe
    if not left:
        return 0
    steps = recipes[0].optim.epochs * (IMAGES // recipes[0].optim.batch)
    return _side_by_side.train(left, steps=steps, device=resolve_device(options.device, mps=False))
