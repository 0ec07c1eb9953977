"""Try everything on scikit-learn's digits: offline, on a CPU.

Pretrains DINO and DINO-vMF for a few minutes, compares them with raw pixels and a random net, and writes a page with
tables and figures.

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
from evaltk.cli.run import print_tables

if TYPE_CHECKING:
    from pretrain.recipe import Recipe

RECIPES = ("digits_dino", "digits_dino_vmf")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Pretrain DINO and DINO-vMF, and compare them with raw pixels and a random net.

    Attributes:
        out: folder of the demo's checkpoints, cache and results.
        epochs: epochs of the two pretraining runs (default: the recipes').
        protocols: what to measure; prototypes looks at the two trained nets only.
        again: redo finished evaluations.
        device: auto (cuda, else mps, else cpu) or cpu, mps, cuda, cuda:N.
    """

    out: Path = Path("runs/demo")
    epochs: int | None = None
    protocols: tuple[Literal["knn", "linear", "fewshot", "transfer", "prototypes"], ...] = (
        "knn",
        "linear",
        "fewshot",
        "transfer",
        "prototypes",
    )
    again: bool = False
    device: str = field(default="auto", metadata={"metavar": "DEVICE"})


def main(argv: list[str]) -> int:
    """Pretrain where that is not done, evaluate all, and the prototypes of what was trained. Returns: 0, or 75."""
    from evaltk import files, results
    from evaltk.progress import log
    from evaltk.running import runner
    from protocols import fewshot, knn, linear, prototypes, transfer
    from reports.page.build import build_page

    options = _options.parse(Options, argv, "demo", __doc__)
    recipes = [_recipe(name, options.epochs) for name in RECIPES]
    for recipe in recipes:
        code = _pretrain(recipe, options.out / recipe.name, options.device)
        if code:
            return code
    trained = tuple(str(options.out / recipe.name / "checkpoint.pth") for recipe in recipes)
    settings: dict[str, Any] = {
        "knn": knn.Settings(),
        "linear": linear.Settings(fast=True),
        "fewshot": fewshot.Settings(),
        "transfer": transfer.Settings(),
        "prototypes": prototypes.Settings(),
    }
    plan = runner.Plan(
        checkpoints=("pixels:8", f"random:{recipes[0].net.arch}", *trained),
        protocols={name: settings[name] for name in options.protocols if name != "prototypes"},
        data=("digits",),
        out=options.out / "results",
        cache=options.out / "cache",
        again=options.again,
        device=options.device,
    )
    heads = dataclasses.replace(
        plan, checkpoints=trained, protocols={n: settings[n] for n in options.protocols if n == "prototypes"}
    )
    shown: list = []
    for part in (plan, heads):
        runner.run(part, report=lambda job, result, skipped: shown.append((job.path, result)))
    print_tables(shown)
    page_path = options.out / "report.html"
    text = build_page(list(results.find(plan.out)), runs=options.out)
    files.write_text(page_path, text)
    log.info("the same as a page, with figures: %s", page_path)
    log.info("look at a checkpoint: evaltk inspect %s", trained[-1])
    log.info("results: %s (print them again: evaltk table --runs %s)", plan.out, plan.out)
    return 0


def _recipe(name: str, epochs: int | None) -> Recipe:
    from pretrain import recipe

    if epochs is None:
        return recipe.load(name)
    return recipe.load(name, [f"optim.epochs={epochs}", f"optim.warmup_epochs={min(1, epochs)}"])


def _pretrain(recipe: Recipe, out: Path, device: str) -> int:
    """Train unless the folder holds the end of this run. Returns: 0, or 75 where a signal stopped it."""
    from evaltk.machine import resolve_device
    from evaltk.progress import log
    from pretrain import checkpoint as saving
    from pretrain import loop, sameness

    path = saving.newest(out)
    if path is not None:
        tree = saving.read(path)
        sameness.check_recipe(tree, recipe, path)
        if tree["epoch"] == recipe.optim.epochs:
            log.info("%s is trained: %s", recipe.name, path)
            return 0
    log.info("pretraining %s, %d epochs, into %s", recipe.name, recipe.optim.epochs, out)
    return loop.run(recipe, out=out, device=resolve_device(device, mps=False))
