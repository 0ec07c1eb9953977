"""Numbers that need no labels: effective rank, intrinsic dimension, uniformity, norms, dead dimensions, CKA of blocks.

Of the class feature of images drawn from one split: RankMe (arXiv 2210.02885), two-NN (Facco et al. 2017), uniformity
and alignment (arXiv 2005.10242), LiDAR (arXiv 2312.04000), linear CKA (arXiv 1905.00414). LiDAR and alignment compare
random crops of the same images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evaltk import settings_rules
from evaltk.bench import Bench, Extracts, Need, Outcome, Protocol, unreadable
from evaltk.data.images import Dataset, Split
from evaltk.errors import DataError
from evaltk.types import Recipe, Score

if TYPE_CHECKING:
    import numpy as np

NEED = Need(recipe=Recipe())
FEW = 10  # images that two-NN needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the numbers that need no labels.

    Attributes:
        split: the split whose images are used; test where there are no training images.
        samples: images drawn (RankMe: 25,600).
        pairs: of these, images for what compares all pairs: two-NN and uniformity; and for CKA.
        views: random crops per image for LiDAR and alignment (LiDAR: 50); 0: neither.
        view_images: images of which views are made (LiDAR: 1,000).
        dead: a dimension is dead if its standard deviation is below this share of the typical one.
        blocks: CKA of each block's class token with the last one's.
    """

    split: Literal["train", "test"] = "train"
    samples: int = 25_600
    pairs: int = 10_000
    views: int = 10
    view_images: int = 1_000
    dead: float = 0.01
    blocks: bool = True

    def __post_init__(self) -> None:
        rules = {
            "samples": (self.samples < FEW, f">= {FEW}"),
            "pairs": (self.pairs < FEW, f">= {FEW}"),
            "views": (self.views < 0 or self.views == 1, "0, or 2 or more"),
            "view_images": (self.view_images < 2, ">= 2"),
            "dead": (not 0 < self.dead < 1, "a share in (0, 1)"),
        }
        settings_rules.check("geometry", self, rules)


def drawn(bench: Bench, dataset: Dataset, settings: Settings) -> Split:
    """The images used: `samples` of the split in its order, drawn by the seed."""
    from evaltk.data.subsets import subset

    split = dataset.train if settings.split == "train" and len(dataset.train) else dataset.test
    if len(split) <= settings.samples:
        return split
    return subset(split, _rows(bench, len(split), settings.samples, "samples"), f"{split.name}, {settings.samples}")


def _rows(bench: Bench, count: int, limit: int, name: str) -> np.ndarray:
    import numpy as np
    import torch

    found = torch.randperm(count, generator=bench.generator("geometry", name))[:limit].numpy()
    return np.sort(found).astype(np.int64)


def needs(bench: Bench, settings: Settings) -> tuple[Need, ...]:
    """The class feature, and the class tokens of all blocks where there are several."""
    depth = bench.backbone.kind.num_blocks(bench.backbone.arch) if hasattr(bench.backbone, "kind") else 1
    alike = depth > 1 and bench.backbone.arch.kind != "swin"  # whose blocks differ in width
    every = (Need(recipe=Recipe(last=depth, norm=False)),) if settings.blocks and alike else ()
    return (bench.class_feature(NEED), *every)


def check(dataset: Dataset, settings: Settings) -> None:
    """Raises: DataError: fewer images than two-NN needs."""
    split = dataset.train if settings.split == "train" and len(dataset.train) else dataset.test
    if len(split) < FEW:
        where = f"{dataset.name} {split.name}"
        raise DataError(wanted=f"{FEW} images or more", got=str(len(split)), where=where, do="use another split")


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """The drawn images' features; their pixels are read once more for views."""
    return ((drawn(bench, dataset, settings), needs(bench, settings)),)


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """The numbers, and the CKA of all pairs of blocks.

    Raises: DataError: constant features, too many duplicates for two-NN, unreadable images.
    """
    import numpy as np

    from evaltk.metrics import geometry

    split, (need, *every) = drawn(bench, dataset, settings), needs(bench, settings)
    found = bench.features(split, need)
    x = np.asarray(found.x, dtype=np.float64)
    part = _rows(bench, len(x), settings.pairs, "pairs")
    norms = np.linalg.norm(x, axis=1)
    dimension, apart = geometry.two_nn(x[part])
    kind = _Kind(dataset=dataset, split=split, width=x.shape[1])
    scores = [
        kind.score("rankme", geometry.rankme(x), len(x)),
        kind.score("rankme_share", geometry.rankme(x) / min(x.shape), len(x)),
        kind.score("intrinsic_dimension", dimension, apart),
        kind.score("uniformity", geometry.uniformity(x[part]), len(part)),
        kind.score("norm_mean", float(norms.mean()), len(x)),
        kind.score("norm_variation", float(norms.std() / norms.mean()), len(x)),
        kind.score("dead_share", geometry.dead_dimensions(x, settings.dead), len(x), below=settings.dead),
    ]
    notes = [f"{len(part) - apart:,} duplicates left out of two-NN"] if apart < len(part) else []
    notes += [f"effective rank of {len(x):,} images: it grows with their number"] if len(x) < settings.samples else []
    arrays = {"norms": norms.astype(np.float32)}
    if settings.views:
        views = _views(bench, split, settings)
        at = {"views": settings.views}
        scores.append(kind.score("lidar", geometry.lidar(views), len(views), **at))
        scores.append(kind.score("alignment", geometry.alignment(views[:, 0], views[:, 1]), len(views)))
    for wider in every:
        blocks = np.asarray(bench.features(split, wider).x[part], dtype=np.float64)
        matrix = _cka(blocks, bench.backbone.arch.embed_dim)
        arrays["cka_blocks"] = matrix.astype(np.float32)
        scores += [
            kind.score("cka_to_last", float(value), len(part), block=number)
            for number, value in enumerate(matrix[-1], 1)
            if np.isfinite(value)
        ]
    return Outcome(scores=tuple(scores), predictions=arrays, deviations=unreadable(found), notes=tuple(notes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What all scores of a result share."""

    dataset: Dataset
    split: Split
    width: int

    def score(self, metric: str, value: float, n: int, **at: object) -> Score:
        whole = at | {"dimensions": self.width}
        return Score(dataset=self.dataset.name, split=self.split.name, metric=metric, value=value, n=n, at=whole)


def _cka(blocks: np.ndarray, width: int) -> np.ndarray:
    """CKA of all pairs of blocks [L, L], from their class tokens side by side [N, L * width]."""
    import numpy as np

    from evaltk.metrics.geometry import linear_cka

    parts = [blocks[:, i : i + width] for i in range(0, blocks.shape[1], width)]
    matrix = np.eye(len(parts))
    for i in range(len(parts)):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = linear_cka(parts[i], parts[j])
    return matrix


def _views(bench: Bench, split: Split, settings: Settings) -> np.ndarray:
    """Features of random crops [images, views, D] float64: torchvision's crop and flip, as linear probes train on."""
    import numpy as np

    rows = _rows(bench, len(split), settings.view_images, "views")
    made = [x for batch in _batches(bench, split, rows, settings.views) for x in batch]
    return np.asarray(made, dtype=np.float64).reshape(len(rows), settings.views, -1)


def _batches(bench: Bench, split: Split, rows: np.ndarray, views: int) -> Iterator[np.ndarray]:
    import numpy as np
    import torch

    from evaltk import progress
    from evaltk.features.extraction import auto_batch, finite
    from protocols.linear import batches

    transform, recipe = bench.transform(), bench.class_feature(NEED).recipe
    crop = batches.crops(transform.crop)
    jobs = [(row, view) for row in rows.tolist() for view in range(views)]
    size = bench.extraction.batch_size or auto_batch(bench.backbone)
    with progress.bar(f"{views} views of {split.dataset} {split.name}", len(jobs)) as advance:
        for start in range(0, len(jobs), size):
            some = jobs[start : start + size]
            pixels = [batches.random_crop(split, crop, bench.seed, view, row) for row, view in some]
            images = transform.normalise(torch.from_numpy(np.stack(pixels)).to(bench.backbone.device))
            yield finite(bench.backbone.features(images, (recipe,))[0], split, [row for row, _ in some])
            advance(len(some))


def _learns(settings: Settings) -> bool:
    return False


PROTOCOL = Protocol(
    name="geometry",
    version=1,
    kind="images",
    settings=Settings,
    run=run,
    doc=__doc__,
    check=check,
    extracts=extracts,
    chooses_feature=True,
    learns=_learns,
)
