"""What bfloat16 moved: features of a sample of images in both precisions, from the same pixels, in words."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from evaltk.bench import AnyDataset, Bench, Extracts, Need
from evaltk.data import loading
from evaltk.data.images import Split
from evaltk.features import nets
from evaltk.types import Recipe

SAMPLE = 64  # images of a split
BATCH = 16
UNMEASURED = "bf16 forward passes; what that moves is not measured for {kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """How features x [n, D] in bfloat16 differ from y in float32.

    Attributes:
        error: median and largest of |x - y| / |y|. cosine: least of cos(x, y). same: images whose nearest neighbour
            among the others, by cosine, is the same. num: images, n.
    """

    error: tuple[float, float]
    cosine: float
    same: int
    num: int

    def text(self, split: str) -> str:
        """In words."""
        return (
            f"bf16 moved the features of {self.num} images of {split} by {100 * self.error[0]:.2g} % (median, at most "
            f"{100 * self.error[1]:.2g} %; cosine with fp32 at least {self.cosine:.5f}); the nearest neighbour among "
            f"them is the same for {self.same}"
        )


def measure(x: torch.Tensor, y: torch.Tensor) -> Moved:
    """The difference of features x [n, D] from y [n, D], n >= 1."""
    x, y = x.double(), y.double()
    error = (x - y).norm(dim=1) / y.norm(dim=1).clamp_min(1e-30)
    cosine = torch.nn.functional.cosine_similarity(x, y, dim=1, eps=1e-30)
    return Moved(
        error=(float(error.median()), float(error.max())),
        cosine=float(cosine.min()),
        same=int((_nearest(x) == _nearest(y)).sum()),
        num=len(x),
    )


def _nearest(x: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize(x, dim=1)
    return (unit @ unit.T).fill_diagonal_(-2).argmax(dim=1)


def notes(bench: Bench, dataset: AnyDataset, extracts: Sequence[Extracts]) -> list[tuple[str, ...]]:
    """For each job's extracts, what bfloat16 moved of them. A split and view is decoded and forwarded once for all.

    Jobs that extract nothing are told of the class feature of the last split.
    """
    own = [
        [(split, need) for split, needs in one for need in needs]
        or [(split, Need(recipe=Recipe())) for split in dataset.splits[-1:]]
        for one in extracts
    ]
    wanted: dict[int, tuple[Split, dict[Need, None]]] = {}
    for pairs in own:
        for split, need in pairs:
            wanted.setdefault(id(split), (split, {}))[1][need] = None
    told = {key: _of_split(bench, split, tuple(needs)) for key, (split, needs) in wanted.items()}
    unmeasured = (UNMEASURED.format(kind=dataset.KIND),)
    return [
        tuple(dict.fromkeys(text for split, need in pairs if (text := told[id(split)].get(need)))) or unmeasured
        for pairs in own
    ]


def _of_split(bench: Bench, split: Split, needs: Sequence[Need]) -> Mapping[Need, str]:
    plain = copy.copy(bench.backbone)  # the same net
    plain.precision = "fp32"
    count = min(SAMPLE, len(split))
    numbers = [i * len(split) // count for i in range(count)]
    parts = [numbers[i : i + BATCH] for i in range(0, count, BATCH)]
    found: dict[Need, str] = {}
    for view in dict.fromkeys(need.view for need in needs):
        mine = [need for need in needs if need.view == view]
        recipes, transform = tuple(need.recipe for need in mine), bench.transform(view)
        rows: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []
        for batch in loading.stacked(loading.Views(split, (transform,)), parts, 0):
            if batch.kept:
                both = [nets.forward(net, transform, batch.pixels[0], recipes) for net in (bench.backbone, plain)]
                rows.append((both[0], both[1]))
        for n, need in enumerate(mine) if rows else ():
            x, y = (torch.cat([row[side][n].cpu() for row in rows]) for side in (0, 1))
            name = "" if need.recipe == Recipe() and view == "eval" else f" ({need.recipe.text()}, {view})"
            found[need] = measure(x, y).text(split.name + name)
    return found
