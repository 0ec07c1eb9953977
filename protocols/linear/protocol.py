"""Linear classification on frozen features, Lin.[C] and Lin.[D]: every learning rate and feature trained in one pass.

Protocol: dino/eval_linear.py at 7c446df; Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Section 5.1.2 and Table 2;
the sweep of learning rates: ibot/evaluation/eval_linear_multi.py:100-106 at da316d8.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaltk import files
from evaltk.bench import Bench, Extracts, Need, Outcome
from evaltk.data import sanity
from evaltk.data.images import Dataset
from evaltk.errors import CheckpointError
from evaltk.types import Recipe

if TYPE_CHECKING:
    from protocols.linear.published_head import LinearHead

from protocols.linear.settings import Settings


def identity(settings: Settings) -> dict[str, str]:
    """{"linear_head": sha256 of the head's file}, and of the list of its classes, where they are named.

    Raises: CheckpointError: the head cannot be read.

    Without torch, so that a finished result is found at once.
    """
    from evaltk.checkpoints.locate import locate

    if settings.head is None:
        return {}
    classes = Path(settings.classes).expanduser() if settings.classes else None
    listed = {"linear_classes": files.sha256(classes)} if classes and classes.is_file() else {}
    try:
        return {"linear_head": locate(settings.head).sha256} | listed
    except CheckpointError as error:
        wanted = f"a file with a linear head for --linear.head: {error.wanted}"
        raise CheckpointError(wanted=wanted, got=error.got, where=error.where, do=error.do) from error


def learns(settings: Settings) -> bool:
    """Whether heads are trained here: not so with a published one."""
    return settings.head is None


def check(dataset: Dataset, settings: Settings) -> None:
    """What can be told before any work. Raises: DataError: labels missing, or one class only."""
    sanity.check_labels(dataset, learns=learns(settings))


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """The features that `prepare` and `run` ask for of this net; no needs: images that training itself reads."""
    from protocols.linear import data

    if settings.head is not None:
        return ((dataset.test, (Need(recipe=_head(bench, dataset, settings)[0]),)),)
    return data.extracts(data.job(bench, dataset, settings))


def prepare(bench: Bench, dataset: Dataset, settings: Settings) -> None:
    """Extract features and train, all processes together; what is done is kept in the cache. Raises: as `run`."""
    from evaltk import distributed
    from protocols.linear import data

    if settings.head is not None:
        for split, needed in extracts(bench, dataset, settings):
            bench.prepare(split, needed)
        return
    job = data.job(bench, dataset, settings)
    if not distributed.broadcast_object(distributed.is_main() and job.store.ready()):
        data.train(job)


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """Top-1 and top-5 of Lin.[C] and Lin.[D] (and of a grid): last epoch of the learning rate chosen on held-out
    training images, and best epoch and learning rate on the reported split; or those of a published head.

    Raises: DataError: unreadable images, features that are not finite. SettingsError: every head diverged, blocks that
        the net has not, a head of other classes or width. CheckpointError: a head that cannot be read.
    """
    from protocols.linear import data, scores

    if settings.head is not None:
        recipe, head = _head(bench, dataset, settings)
        features = bench.features(dataset.test, Need(recipe=recipe))
        outcome = scores.of_head(dataset, features, recipe, head)
        return replace(outcome, views={"eval": bench.transform("eval").recorded()})
    job = data.job(bench, dataset, settings)
    if not job.store.done():
        data.train(job)
    return scores.of_job(job)


def _head(bench: Bench, dataset: Dataset, settings: Settings) -> tuple[Recipe, LinearHead]:
    from protocols.linear import class_order
    from protocols.linear import published_head as linear_heads

    arch, said = bench.checkpoint.arch, str(settings.head)
    path = Path(said).expanduser()
    read = linear_heads.read(path if path.exists() else said)
    recipe, head = linear_heads.match(
        read,
        settings.recipes(arch, own=bench.checkpoint.linear),
        embed_dim=arch.embed_dim,
        num_classes=len(dataset.test.classes),
        family=bench.checkpoint.family,
        order=settings.head_order,
    )
    columns, told = class_order.columns(dataset, settings.classes, head.origin)
    head = replace(head, weight=head.weight[columns], bias=head.bias[columns], notes=(*head.notes, told))
    return recipe, head
