"""Linear classification on frozen features, Lin.[C] and Lin.[D]: every learning rate and feature trained in one pass.

Protocol: dino/eval_linear.py at 7c446df; Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Section 5.1.2 and Table 2;
the sweep of learning rates: ibot/evaluation/eval_linear_multi.py:100-106 at da316d8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evaltk.bench import Bench, Extracts, Need, Outcome
from evaltk.errors import CheckpointError, DataError, SettingsError
from evaltk.images import Dataset
from evaltk.types import Recipe

if TYPE_CHECKING:
    from evaltk.linear_heads import LinearHead
    from evaltk.types import Arch

VERSION = 1
KIND = "images"
TITLE = "linear"
LRS = tuple(float(f"{digit}e{power}") for power in range(-4, 1) for digit in range(1, 10))
PAPER_EPOCHS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the linear probe; the defaults are DINO's, with iBOT's sweep of learning rates.

    Attributes:
        lr: base learning rates, a head each (iBOT's 45: 1 to 9 times 1e-4 to 1); times batch / 256 they are used.
        epochs: passes over the training images (100, dino/eval_linear.py:265); the rate falls by a cosine to 0.
        batch: images a step, of all processes together (256, as DINO's published logs have it).
        blocks: last blocks whose class tokens are joined, a feature each; default: what Lin.[C] and Lin.[D] take.
        pool: none, or mean: the last block's mean patch token is joined to them; default: as for blocks.
        holdout: share of the training images held out, by class, to choose the learning rate on (0: do not choose).
        fast: learn from features extracted once, without augmentation: another protocol, usually lower.
        head: file or catalogue name of a published linear head: it is evaluated, nothing is trained.
        head_order: columns of a head on cls and mean: plain, interleaved, or auto: as the checkpoint's family has them.
    """

    lr: tuple[float, ...] = LRS
    epochs: int = PAPER_EPOCHS
    batch: int = 256
    blocks: tuple[int, ...] | None = None
    pool: tuple[Literal["none", "mean"], ...] | None = None
    holdout: float = 0.01
    fast: bool = False
    head: str | None = None
    head_order: Literal["auto", "plain", "interleaved"] = "auto"

    def __post_init__(self) -> None:
        wrong = {
            "lr": (not self.lr or not all(0 < lr < math.inf for lr in self.lr), "learning rates > 0"),
            "epochs": (self.epochs < 1, "at least 1"),
            "batch": (self.batch < 1, "at least 1"),
            "blocks": (self.blocks is not None and not (self.blocks and min(self.blocks) >= 1), "numbers >= 1"),
            "pool": (self.pool is not None and not (self.pool and {*self.pool} <= {"none", "mean"}), "none or mean"),
            "holdout": (not 0 <= self.holdout <= 0.5, "a share of 0 to 0.5"),
            "fast": (self.fast and self.head is not None, "no --linear.fast: a published head is not trained"),
            "head_order": (self.head_order not in ("auto", "plain", "interleaved"), "auto, plain or interleaved"),
        }
        for name, (bad, wanted) in wrong.items():
            if bad:
                got, where = str(getattr(self, name)), f"--linear.{name.replace('_', '-')}"
                raise SettingsError(wanted=wanted, got=got, where=where, do="mend the flag")

    def recipes(self, arch: Arch) -> tuple[Recipe, ...]:
        """The features heads are trained on: those of Lin.[C] and Lin.[D], or all of blocks x pool."""
        if self.blocks is None and self.pool is None:
            return tuple(dict.fromkeys((Recipe(), dino_rule(arch)[0])))
        pairs = [(b, p) for b in self.blocks or (1,) for p in self.pool or ("none",)]
        return tuple(dict.fromkeys(Recipe(tokens="cls+mean" if p == "mean" else "cls", last=b) for b, p in pairs))


def dino_rule(arch: Arch) -> tuple[Recipe, str]:
    """(the feature of Lin.[D] for a net, which rule that is, in words).

    Source: dino/eval_linear.py:256-260: ViT-S 4 blocks without pooling, ViT-B one block with.
    """
    four = min(4, arch.depth)
    if arch.kind != "vit":
        return Recipe(), f"the class feature of {arch.name}, which has no choice of blocks"
    if arch.embed_dim < 768:
        told = "DINO's for ViT-S" if arch.embed_dim == 384 else f"DINO's for ViT-S, taken for width {arch.embed_dim}"
        return Recipe(last=four), f"class tokens of the last {four} blocks, each through the final norm ({told})"
    told = "DINO's for ViT-B" if arch.embed_dim == 768 else f"DINO's for ViT-B, taken for width {arch.embed_dim}"
    return Recipe(tokens="cls+mean"), f"class token and mean patch token of the last block ({told})"


def needs(settings: Settings) -> tuple[Need, ...]:
    """None: which features there are depends on the net, see `prepare`."""
    return ()


def identity(settings: Settings) -> dict[str, str]:
    """What the settings name outside themselves: the sha256 of the head's file. Raises: CheckpointError: no such file.

    Without torch, so that a result that is there is found in a blink.
    """
    from evaltk import catalog, files

    if settings.head is None:
        return {}
    path, known = Path(settings.head).expanduser(), catalog.load()
    if not path.exists() and settings.head in known:
        path = catalog.local_path(known[settings.head])
    if not path.is_file():
        do = f"evaltk fetch {settings.head}" if settings.head in known else "mend --linear.head"
        raise CheckpointError(wanted="a file with a linear head", got="no such file", where=path, do=do)
    try:
        return {"linear_head": files.sha256(path)}
    except OSError as error:
        do = "check its permissions"
        raise CheckpointError(wanted="a file that can be read", got=str(error), where=path, do=do) from error


def check(dataset: Dataset, settings: Settings) -> None:
    """What can be told before any work. Raises: DataError: labels missing, or one class only."""
    for split in (dataset.train, dataset.test):
        odd = int(((split.labels < 0) | (split.labels >= len(split.classes))).sum())
        if odd:
            raise DataError(
                wanted=f"a label from 0 to {len(split.classes) - 1} for every image", got=f"{odd} images without",
                where=f"{dataset.name} {split.name}", do="label them, or leave them out",
            )  # fmt: skip
    there = len({*dataset.train.labels.tolist()})
    if there < 2 and settings.head is None:
        where, do = f"{dataset.name} {dataset.train.name}", "name another data set"
        raise DataError(wanted="at least two classes with images", got=str(there), where=where, do=do)


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """The features that `prepare` and `run` ask for of this net; no needs: images that training itself reads."""
    from protocols import linear_data

    if settings.head is not None:
        return ((dataset.test, (Need(recipe=_head(bench, dataset, settings)[0]),)),)
    return linear_data.extracts(bench, dataset, settings, settings.recipes(bench.checkpoint.arch))


def prepare(bench: Bench, dataset: Dataset, settings: Settings) -> None:
    """Extract features and train, all processes together; what is done is kept in the cache. Raises: as `run`."""
    from evaltk import distributed
    from protocols import linear_data

    if settings.head is not None:
        for split, needed in extracts(bench, dataset, settings):
            bench.prepare(split, needed)
        return
    recipes = settings.recipes(bench.checkpoint.arch)
    if not distributed.broadcast_object(linear_data.store(bench, dataset, settings, recipes).done()):
        linear_data.train(bench, dataset, settings, recipes)


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """Top-1 and top-5 of Lin.[C] and Lin.[D] (and of a grid): last epoch of the learning rate chosen on held-out
    training images, and best epoch and learning rate on the reported split; or those of a published head.

    Raises: DataError: unreadable images, features that are not finite. SettingsError: every head diverged, blocks that
        the net has not, a head of other classes or width. CheckpointError: a head that cannot be read.
    """
    from protocols import linear_data, linear_scores

    if settings.head is not None:
        recipe, head = _head(bench, dataset, settings)
        found = bench.features(dataset.test, Need(recipe=recipe))
        outcome = linear_scores.of_head(dataset, found, recipe, head)
        return replace(outcome, views={"eval": bench.transform("eval").recorded()})
    recipes = settings.recipes(bench.checkpoint.arch)
    store = linear_data.store(bench, dataset, settings, recipes)
    if not store.done():
        prepare(bench, dataset, settings)
    trained, reported = store.read(), bench.features(dataset.test, Need(recipe=recipes[0]))
    rule = (f"Lin.[C]: class token of the last block; Lin.[D]: {dino_rule(bench.checkpoint.arch)[1]}",)
    columns = {"C": Recipe(), "D": dino_rule(bench.checkpoint.arch)[0]}
    groups = {name: [recipes.index(r)] for name, r in columns.items() if r in recipes}
    if settings.blocks is not None or settings.pool is not None:
        groups["grid"] = list(range(len(recipes)))
    held = linear_data.held_out(bench, dataset, settings)
    sweep = linear_scores.Sweep(
        recipes=recipes, lrs=linear_data.rates(settings), groups=groups, num_held=len(held), holdout=settings.holdout
    )
    outcome = linear_scores.of_sweep(dataset, reported, sweep, trained, rule + linear_data.notes(settings))
    deviations = linear_data.deviations(bench, dataset, settings, recipes) + outcome.deviations
    return replace(outcome, deviations=deviations, views=linear_data.views(bench, settings))


def _head(bench: Bench, dataset: Dataset, settings: Settings) -> tuple[Recipe, LinearHead]:
    from evaltk import linear_heads

    arch, said = bench.checkpoint.arch, str(settings.head)
    path = Path(said).expanduser()
    return linear_heads.match(
        linear_heads.read(path if path.exists() else said),
        settings.recipes(arch),
        embed_dim=arch.embed_dim,
        num_classes=len(dataset.test.classes),
        family=bench.checkpoint.family,
        order=settings.head_order,
    )
