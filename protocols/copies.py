"""Copy detection: altered copies of images find their originals, with and without distractors.

Protocol: dino/eval_copy_detection.py at 7c446df: both sides resized to 320, class token and generalised mean (power 4)
of the patches side by side, cosine, mean average precision of the first twenty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaltk import settings_rules
from evaltk.bench import Bench, Extracts, Outcome, Protocol
from evaltk.data.copies import Copies
from evaltk.data.galleries import Photographs, folder_of_images
from evaltk.data.transforms import SMALL, Transform
from evaltk.errors import DataError
from evaltk.types import Score

if TYPE_CHECKING:
    import numpy as np

SIDE = 320
FLOOR = 1e-5  # of the largest eigenvalue: smaller ones count as this (dino/utils.py:668-671)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of copy detection; the defaults are DINO's.

    Attributes:
        imsize: side of the square images (320; nets for images below 96 px: their own).
        gem_power: power of the generalised mean of patches.
        depth: images retrieved per copy that count.
        distractors: folder of images searched besides the originals (DINO: 10,000 of YFCC100M); default: none.
        whiten: folder of images to fit PCA whitening on (DINO: 20,000 of YFCC100M); default: none.
    """

    imsize: int | None = None
    gem_power: float = 4.0
    depth: int = 20
    distractors: str | None = None
    whiten: str | None = None

    def __post_init__(self) -> None:
        rules = {
            "imsize": (self.imsize is not None and self.imsize < 1, ">= 1"),
            "gem_power": (not self.gem_power > 0, "> 0"),
            "depth": (self.depth < 1, ">= 1"),
        }
        settings_rules.check("copies", self, rules)


def _splits(dataset: Copies, settings: Settings) -> dict[str, Photographs]:
    """All images to describe, by name. Raises: DataError: a folder without images."""
    splits = {"original": dataset.originals} | dict(dataset.blocks)
    for name, place in (("distractors", settings.distractors), ("whiten", settings.whiten)):
        if place is not None:
            folder = Path(place).expanduser()
            if not folder.is_dir():
                where = f"--copies.{name}"
                raise DataError(wanted="a folder of images", got=str(folder), where=where, do="correct the path")
            splits[name] = replace(folder_of_images(folder), name=name)
    return splits


def check(dataset: Copies, settings: Settings) -> None:
    """Raises: DataError: a folder without images."""
    _splits(dataset, settings)


def identity(settings: Settings) -> dict[str, str]:
    """{folder: digest of its names and sizes}."""
    places = {"distractors": settings.distractors, "whiten": settings.whiten}
    folders = {name: Path(place).expanduser() for name, place in places.items() if place is not None}
    return {name: folder_of_images(folder).fingerprint for name, folder in folders.items() if folder.is_dir()}


def extracts(bench: Bench, dataset: Copies, settings: Settings) -> Extracts:
    """The images that `prepare` describes."""
    return tuple((split, ()) for split in _splits(dataset, settings).values())


def prepare(bench: Bench, dataset: Copies, settings: Settings) -> None:
    """Describe all images, shared by the processes. Raises: as `run`."""
    for split in _splits(dataset, settings).values():
        _describe(bench, split, settings, together=True)


def _transform(bench: Bench, settings: Settings) -> Transform:
    native = bench.checkpoint.arch.img_size
    side = settings.imsize or (SIDE if native >= SMALL else native)
    mean, std = bench.checkpoint.mean, bench.checkpoint.std
    return Transform(resize=side, crop=side, mean=mean, std=std, square=True)


def _describe(bench: Bench, split: Photographs, settings: Settings, *, together: bool) -> np.ndarray:
    from evaltk.features.extraction import extract
    from protocols.retrieval.descriptors import DescriptorNet, Pooling

    pooling = Pooling(kind="cls+gem", power=settings.gem_power)
    allowed = bench.extraction.skip_bad_images if split.name in ("distractors", "whiten") else 0
    how = replace(bench.extraction, skip_bad_images=allowed)
    net, transform = DescriptorNet(bench.backbone), _transform(bench, settings)
    return extract(net, split, transform, (pooling,), cache=bench.cache, how=how, together=together)[pooling].x


def run(bench: Bench, dataset: Copies, settings: Settings) -> Outcome:
    """mAP of each strength of alteration among the originals, and with distractors where there are some.

    Raises: DataError: an unreadable image, features that are zero or not finite.
    """
    import numpy as np

    from protocols.retrieval import ranking

    splits = _splits(dataset, settings)
    x = {name: np.asarray(_describe(bench, split, settings, together=False)) for name, split in splits.items()}
    notes: tuple[str, ...] = ()
    if "whiten" in x:
        mean, projection = whitening(x["whiten"])
        notes = (f"PCA whitening fitted on {len(x['whiten']):,} images",)
        x = {name: ((rows - mean) @ projection).astype(np.float32) for name, rows in x.items()}
    scores: list[Score] = []
    arrays: dict[str, np.ndarray] = {}
    for block, positives in {"original": _same(dataset), **dataset.positives}.items():
        for distractors in (None, x["distractors"]) if "distractors" in x else (None,):
            ranked = ranking.rank(x[block], x["original"], distractors=distractors, keep=settings.depth)
            places = ranked.ahead + np.arange(ranked.order.shape[1])
            values = average_precisions(ranked.order, places, positives, settings.depth)
            name = f"{block}_with_distractors" if distractors is not None else block
            arrays[f"ap_{name}"] = values
            arrays[f"first_{name}"] = ranked.order[:, 0].astype(np.int32)
            scores.append(_score(bench, dataset, values, block, settings, ranked.num_distractors))
    scores += _means(scores)
    view = {"eval": _transform(bench, settings).recorded()}
    return Outcome(scores=tuple(scores), predictions=arrays, notes=notes, views=view)


def _same(dataset: Copies) -> tuple[tuple[int, ...], ...]:
    return tuple((i,) for i in range(len(dataset.originals)))


def average_precisions(
    order: np.ndarray, places: np.ndarray, positives: tuple[tuple[int, ...], ...], depth: int
) -> np.ndarray:
    """Trapezoidal AP of each query [Q] float64, of the positives among the first `depth`.

    Args: order: originals, best first [Q, N]. places: rank of each with distractors [Q, N]. positives: of each query.
    """
    import numpy as np

    from evaltk.metrics.retrieval import average_precision

    found = []
    for row, place, mine in zip(order, places, positives, strict=True):
        ranks = place[np.isin(row, mine)]
        found.append(average_precision(ranks[ranks < depth], len(mine)))
    return np.asarray(found)


def whitening(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean [D], projection [D, D]) of descriptors x [N, D], as DINO's code fits them.

    The mean is taken from the images, but not from the second moments that the projection comes from
    (dino/eval_copy_detection.py:281-291, dino/utils.py:663-687).
    """
    import numpy as np

    x = np.asarray(x, dtype=np.float64)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    values = np.maximum(values, values.max() * FLOOR)
    return x.mean(axis=0), (vectors / np.sqrt(values))[:, ::-1]


def _score(
    bench: Bench, dataset: Copies, values: np.ndarray, block: str, settings: Settings, distractors: int
) -> Score:
    import numpy as np

    from evaltk.metrics.scores import bootstrap_bounds
    from evaltk.seeding import derive

    rng = np.random.default_rng(derive(bench.seed, "copies", dataset.name, block))
    return Score(
        dataset=dataset.name,
        split="copies",
        metric="copy_mAP_distractors" if distractors else "copy_mAP",
        value=float(values.mean()),
        n=len(values),
        at={"block": block, "distractors": distractors, "depth": settings.depth},
        interval=bootstrap_bounds(values, rng=rng),
    )


def _means(scores: list[Score]) -> list[Score]:
    """The mean over the crops and over the JPEG qualities, by number of distractors."""
    import numpy as np

    made = []
    for group in ("crops", "jpegqual"):
        for distractors in dict.fromkeys(s.at["distractors"] for s in scores):
            mine = [s for s in scores if str(s.at["block"]).startswith(group) and s.at["distractors"] == distractors]
            if mine:
                value, n = float(np.mean([s.value for s in mine])), sum(s.n for s in mine)
                metric = f"{mine[0].metric}_mean"
                at = {"block": group, "distractors": distractors, "strengths": len(mine)}
                made.append(replace(mine[0], metric=metric, value=value, n=n, at=at, interval=None))
    return made


PROTOCOL = Protocol(
    name="copies",
    version=1,
    kind="copies",
    settings=Settings,
    run=run,
    doc=__doc__,
    check=check,
    identity=identity,
    extracts=extracts,
    prepare=prepare,
)
