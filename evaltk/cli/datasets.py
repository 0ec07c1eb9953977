"""Say of data sets whether they can be used: what is there, and what is missing with where it comes from.

Examples:
    evaltk datasets check pets=/data/oxford-iiit-pet dtd=/data/dtd
    evaltk datasets check my-photos:imagefolder=~/photos --no-contents
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from evaltk.data.images import Dataset

METRICS = {"top1": "top-1", "mean_per_class": "mean per class"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check data sets.

    Attributes:
        action: check.
        data: NAME=PATH, LABEL:NAME=PATH, or NAME where it needs no path (evaltk ls datasets).
        contents: also look for test images that are training images too, by the bytes of files of equal size, and
            decode the first image of each split.
    """

    action: Annotated[Literal["check"], tyro.conf.Positional]
    data: Annotated[tuple[str, ...], tyro.conf.Positional]
    contents: bool = True


def main(argv: list[str]) -> int:
    """Print what each data set has; exit 2 where one cannot be used."""
    from evaltk import datasets
    from evaltk.errors import EvaltkError, SettingsError

    options = tyro.cli(Options, args=argv, prog="evaltk datasets", description=__doc__)
    if not options.data:
        do = "evaltk datasets check NAME=PATH; evaltk ls datasets"
        raise SettingsError(wanted="data sets to check", got="none", where="evaltk datasets check", do=do)
    unusable = 0
    for word in options.data:
        try:
            print("\n".join(_report(datasets.load(word), options.contents)))
        except EvaltkError as error:
            sys.stdout.flush()
            print(f"evaltk: {word.partition('=')[0]}: {error}", file=sys.stderr)
            unusable += 1
    return 2 if unusable else 0


def _report(dataset: Any, contents: bool) -> list[str]:
    """What is there, line by line. Raises: DataError: it cannot be used."""
    sizes = [f"{split.name} {len(split):,} images" for split in dataset.splits]
    found = [
        f"{dataset.name}: {', '.join(sizes) or dataset.KIND}",
        *(d.words() for d in dataset.deviations),
        *dataset.notes,
    ]
    if dataset.KIND == "images":
        found[1:1] = _images(dataset)
        found += _contents(dataset) if contents else ()
    return [found[0], *(f"  {line}" for line in found[1:])]


def _images(dataset: Dataset) -> list[str]:
    val = "" if dataset.val is None else f", {int(dataset.val.sum()):,} of {dataset.train.name} are official validation"
    empty = [f"{len(s.empty)} empty files in {s.name}, the first {s.empty[0]}" for s in dataset.splits if s.empty]
    return [f"{len(dataset.train.classes)} classes, reported by {METRICS[dataset.metric]}{val}", *empty]


def _contents(dataset: Dataset) -> tuple[str, ...]:
    from evaltk.data import overlap

    for split in dataset.splits:
        if len(split):
            split.open(0)
    shared = tuple(deviation.words() for deviation in overlap.check(dataset))
    return shared or (f"no image of {dataset.test.name} is in {dataset.train.name} too",)
