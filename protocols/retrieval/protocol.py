"""Image retrieval on the revisited Oxford and Paris benchmarks by cosine similarity of frozen features.

Protocol: dino/eval_image_retrieval.py at 7c446df; metrics: revisitop at be39832.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from evaltk import datasets, safe_arrays, settings_rules
from evaltk.bench import Bench, Extracts, Outcome
from evaltk.data.galleries import Gallery, Photographs, folder_of_images
from evaltk.errors import DataError, SettingsError
from evaltk.types import Score

if TYPE_CHECKING:
    from protocols.retrieval.descriptors import Pooling, Thumbnail
    from protocols.retrieval.ranking import Ranking, Whitening

# {benchmark: (longest side in px, scales)}; dino README, image retrieval: Paris 512 multi-scale, Oxford 224 without.
RECIPES: dict[str, tuple[int, tuple[float, ...]]] = {
    "rparis6k": (512, (1.0, 1 / math.sqrt(2), 0.5)),
    "roxford5k": (224, (1.0,)),
}
DIFFICULTIES = ("medium", "hard", "easy")
MEASURES = {"ap": "mAP", "p@1": "mP@1", "p@5": "mP@5", "p@10": "mP@10"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of retrieval; the defaults are DINO's.

    Attributes:
        preset: dino (full query images) or official (queries cropped to their box, as specified by revisitop).
        imsize: longest side in pixels; default: 512 for Paris, 224 for Oxford (dino README).
        scales: image scales; default: 1 0.7071 0.5 for Paris, 1 for Oxford (dino README).
        crop: crop queries to their box; default: by the preset.
        pooling: cls (class token), gem (generalised mean of patches) or cls+gem (both).
        gem_power: power of the generalised mean (4, dino/eval_copy_detection.py).
        whiten: dataset to fit PCA whitening on, NAME=PATH (retrieval; its database images); default: none.
        whiten_dims: number of whitened dimensions to keep; default: all.
        distractors: folder of images, or .npy of features [M, D] from the same net; default: none.
        keep: length of the ranked lists kept for figures.
    """

    preset: Literal["dino", "official"] = "dino"
    imsize: int | None = None
    scales: tuple[float, ...] | None = None
    crop: bool | None = None
    pooling: Literal["cls", "gem", "cls+gem"] = "cls"
    gem_power: float = 4.0
    whiten: str | None = None
    whiten_dims: int | None = None
    distractors: str | None = None
    keep: int = 100

    def __post_init__(self) -> None:
        rules = {
            "preset": (self.preset not in ("dino", "official"), "dino or official"),
            "imsize": (self.imsize is not None and self.imsize < 1, "at least 1"),
            "scales": (self.scales is not None and not (self.scales and min(self.scales) > 0), "factors > 0"),
            "pooling": (self.pooling not in ("cls", "gem", "cls+gem"), "cls, gem or cls+gem"),
            "gem_power": (not self.gem_power > 0, "a power > 0"),
            "keep": (self.keep < 1, "at least 1"),
        }
        settings_rules.check("retrieval", self, rules)

    def cropped(self) -> bool:
        """Whether queries are cropped to their boxes."""
        return self.preset == "official" if self.crop is None else self.crop

    def recipe(self, benchmark: str) -> tuple[int, tuple[float, ...]]:
        """(longest side, scales) for a benchmark."""
        imsize, scales = RECIPES.get(benchmark, RECIPES["roxford5k"])
        return self.imsize or imsize, self.scales or scales


def extracts(bench: Bench, dataset: Gallery, settings: Settings) -> Extracts:
    """The images that `prepare` describes, each at its own size: database, queries, those of whitening, distractors."""
    return tuple((split, ()) for split in _splits(dataset, settings).values())


def prepare(bench: Bench, dataset: Gallery, settings: Settings) -> None:
    """Extract all descriptors, distributed over processes. Raises: as `run`."""
    for split in _splits(dataset, settings).values():
        describe(bench, dataset, split, settings, together=True)


def run(bench: Bench, dataset: Gallery, settings: Settings) -> Outcome:
    """mAP and mP@1, 5, 10 for medium, hard and easy, with intervals over queries; rankings and per-query values.

    Raises: DataError: an unreadable image, features that are zero or not finite. SettingsError: an unsuitable whitening
        dataset or number of dimensions.
    """
    from protocols.retrieval import ranking

    x = {
        name: describe(bench, dataset, split, settings, together=False)
        for name, split in _splits(dataset, settings).items()
    }
    whitening, notes = _whitening(x.get("whiten"), settings)
    distractors = x["distractors"] if "distractors" in x else _mapped(settings)
    ranked = ranking.rank(x["queries"], x["database"], distractors=distractors, whitening=whitening, keep=settings.keep)
    values = ranking.score(ranked, dataset.truth.gnd)
    imsize, scales = settings.recipe(dataset.truth.name)
    at = {"imsize": imsize, "scales": " ".join(f"{s:.4g}" for s in scales), "crop": settings.cropped()}
    if ranked.num_distractors:
        at["distractors"] = ranked.num_distractors
    scores = tuple(
        _score(bench, dataset, values[difficulty][key], f"{difficulty}_{name}", at)
        for difficulty in DIFFICULTIES
        for key, name in MEASURES.items()
        if not np.isnan(values[difficulty][key]).all()
    )
    return Outcome(scores=scores, predictions=_predictions(dataset, ranked, values), notes=notes)


def _splits(dataset: Gallery, settings: Settings) -> dict[str, Photographs]:
    """The splits to extract. Raises: DataError, SettingsError: before any image is read."""
    splits = {
        "database": dataset.database,
        "queries": dataset.cropped_queries() if settings.cropped() else dataset.queries,
    }
    if settings.whiten is not None:
        other = datasets.load(settings.whiten)
        if other.KIND != dataset.KIND:
            raise SettingsError(
                wanted=f"a dataset of {dataset.KIND}",
                got=other.KIND,
                where="--retrieval.whiten",
                do="evaltk ls datasets",
            )
        if other.fingerprint == dataset.fingerprint:
            got = f"{dataset.name} itself"
            where = "--retrieval.whiten"
            do = "fit on the other benchmark"
            raise SettingsError(wanted="another dataset than the evaluated one", got=got, where=where, do=do)
        splits["whiten"] = other.database
    if settings.distractors is not None and not settings.distractors.endswith(".npy"):
        folder = Path(settings.distractors).expanduser()
        if not folder.is_dir():
            where = "--retrieval.distractors"
            raise DataError(
                wanted="a folder of images or a .npy file", got=str(folder), where=where, do="correct the path"
            )
        splits["distractors"] = folder_of_images(folder)
    return splits


def describe(bench: Bench, dataset: Gallery, split: Photographs, settings: Settings, *, together: bool) -> np.ndarray:
    """Descriptors [N, D] float32 of a split's images, from the cache where they are. Raises: as `run`.

    Args: together: all processes call this at once; False: this one alone asks for what is there.
    """
    from protocols.retrieval import descriptors

    imsize, scales = settings.recipe(dataset.truth.name)
    mean, std = bench.checkpoint.mean, bench.checkpoint.std
    transform: Thumbnail = descriptors.Thumbnail(resize=imsize, crop=imsize, mean=mean, std=std)
    pooling: Pooling = descriptors.Pooling(kind=settings.pooling, power=settings.gem_power, scales=scales)
    # Rows must match the ground truth's images; only distractors may be skipped.
    allowed = bench.extraction.skip_bad_images if split.name == "distractors" else 0
    how = replace(bench.extraction, skip_bad_images=allowed)
    return descriptors.describe(
        bench.backbone, split, transform, pooling, cache=bench.cache, how=how, together=together
    )


def _whitening(x: np.ndarray | None, settings: Settings) -> tuple[Whitening | None, tuple[str, ...]]:
    from protocols.retrieval import ranking

    if x is None:
        return None, ()
    whitening = ranking.learn_whitening(x, settings.whiten_dims)
    name, dims = str(settings.whiten).partition("=")[0], whitening.projection.shape[1]
    return whitening, (f"PCA whitening to {dims} dimensions, fitted on {len(x):,} images of {name}",)


def _mapped(settings: Settings) -> np.ndarray | None:
    """The distractors' features, memory-mapped. Raises: DataError."""
    if settings.distractors is None:
        return None
    path = Path(settings.distractors).expanduser()
    try:
        features = safe_arrays.read_npy(path, mapped=True)
    except (OSError, ValueError) as error:
        raise DataError(
            wanted="features [M, D] as .npy", got=str(error)[:120], where=path, do="save them with numpy.save"
        ) from error
    if features.ndim != 2 or features.dtype.kind != "f" or not len(features):
        got = f"{features.dtype} {list(features.shape)}"
        raise DataError(wanted="features [M, D], float", got=got, where=path, do="save them as float32")
    return features


def _score(bench: Bench, dataset: Gallery, values: np.ndarray, metric: str, at: dict[str, object]) -> Score:
    from evaltk.metrics.scores import bootstrap_bounds
    from evaltk.seeding import derive

    values = values[~np.isnan(values)]  # queries without a positive of this difficulty have no value
    rng = np.random.default_rng(derive(bench.seed, "retrieval", dataset.name, metric))
    return Score(
        dataset=dataset.name,
        split="queries",
        metric=metric,
        value=float(values.mean()),
        n=len(values),
        at=at,
        interval=bootstrap_bounds(values, rng=rng),
    )


def _predictions(dataset: Gallery, ranked: Ranking, values: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One row per query: its name, its values, the ranked database, and the top of the list with distractors."""
    arrays = {
        f"{difficulty}_{key}": array for difficulty, measures in values.items() for key, array in measures.items()
    }
    return {
        "query": np.array(dataset.truth.qimlist),
        "database": np.array(dataset.truth.imlist),
        "ranks": ranked.order.astype(np.int32),
        "top": ranked.top.astype(np.int32),
        **arrays,
    }
