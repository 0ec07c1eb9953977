"""Video object segmentation on DAVIS-2017: first-frame masks propagated by patch similarity.

Protocol: dino/eval_video_segmentation.py at 7c446df; metrics: davis2017-evaluation at ac7c43f.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from evaltk import progress, results, settings_rules
from evaltk.bench import Bench, Outcome
from evaltk.data import frames as video
from evaltk.data.frames import Frame, write_ids
from evaltk.datasets.davis2017 import Sequence as Video
from evaltk.datasets.davis2017 import Sequences
from evaltk.deviations import Deviation, DeviationKind
from evaltk.features.cache import CacheEntry, cache_key
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, FeatureKey, Score

if TYPE_CHECKING:
    from evaltk.metrics.segmentation import ObjectScores
    from evaltk.models.backbone import Backbone
    from protocols.vos.propagation import PropagationConfig

VERSION = 1  # of the protocol and of the masks in the cache
DINO_STD = (0.228, 0.224, 0.225)  # the first value is not ImageNet's 0.229; dino/eval_video_segmentation.py:244
MASKS = "masks.npz"  # the file of a cache entry
ROUGH = 10  # sequences below which an interval says little
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of label propagation; the defaults are those of DINO's script.

    Attributes:
        preset: dino (first std 0.228, last frame not scored) or plain (the checkpoint's std, last frame scored).
        size: shorter side of the frames in pixels; the longer side becomes a multiple of 64 (480).
        previous: number of previous context frames, in addition to the first (7, eval_video_segmentation.py:260).
        radius: of the square window in each context frame, in tokens (12, :261).
        topk: number of most similar tokens that contribute their labels, plus ties (5, :263).
        temperature: weights are exp(cosine / temperature) (0.1, :125-129).
        mean: pixel mean of RGB in [0, 1]; default: the net's.
        std: pixel standard deviation; default: by the preset.
        drop_last: exclude the last frame from the scores (official semi-supervised task); default: by the preset.
        merged: take all objects of a video for one, as DAVIS-2016 does.
        save_masks: folder for palette PNGs, FOLDER/CHECKPOINT/SEQUENCE/FRAME.png; default: do not save masks.
    """

    preset: Literal["dino", "plain"] = "dino"
    size: int = 480
    previous: int = 7
    radius: int = 12
    topk: int = 5
    temperature: float = 0.1
    mean: Triple | None = None
    std: Triple | None = None
    drop_last: bool | None = None
    merged: bool = field(default=False, metadata={"later": True})
    save_masks: str | None = None

    def __post_init__(self) -> None:
        least = {"size": 64, "previous": 0, "radius": 0, "topk": 1}
        rules = {
            "preset": (self.preset not in ("dino", "plain"), "dino or plain"),
            **{name: (getattr(self, name) < low, f"at least {low}") for name, low in least.items()},
            "temperature": (not self.temperature > 0, "a temperature > 0"),
        }
        settings_rules.check("vos", self, rules)

    def statistics(self) -> tuple[Triple, Triple]:
        """Pixel (mean, std): those set, else ImageNet's, with DINO's 0.228 under its preset."""
        std = self.std or (DINO_STD if self.preset == "dino" else IMAGENET_STD)
        return self.mean or IMAGENET_MEAN, std

    def propagation(self) -> PropagationConfig:
        """The configuration of `protocols.vos.propagation`."""
        from protocols.vos.affinity import AffinityConfig
        from protocols.vos.propagation import PropagationConfig

        mean, std = self.statistics()
        affinity = AffinityConfig(radius=self.radius, topk=self.topk, temperature=self.temperature)
        return PropagationConfig(size=self.size, mean=mean, std=std, previous=self.previous, affinity=affinity)

    def last_dropped(self) -> bool:
        """Whether the last frame is excluded from the scores."""
        return self.preset == "dino" if self.drop_last is None else self.drop_last


def propagate(
    backbone: Backbone, frames: Sequence[Frame], first_mask: np.ndarray, settings: Settings | None = None
) -> np.ndarray:
    """Propagate the object ids of the first frame to all frames: uint8 [T, H, W].

    The first mask is returned unchanged. Its void pixels (255) count as background, ids may have gaps, and an object
    that disappears when the mask is downsampled to tokens is lost, as in the reference.

    Args:
        frames: paths or Pillow images, all of the same size. first_mask: object ids [H, W], integers in [0, 255].

    Raises: DataError: no frames, an unreadable one, sizes that differ. SettingsError: a net without patch tokens.
    """
    from protocols.vos import propagation

    return propagation.propagate(backbone, frames, first_mask, (settings or Settings()).propagation())


def prepare(bench: Bench, dataset: Sequences, settings: Settings) -> None:
    """Compute the masks of all sequences, distributed over processes. Raises: as `run`."""
    from evaltk import distributed

    settings, _ = _with_statistics(bench, settings)
    own = dataset.sequences[distributed.rank() :: distributed.world_size()]
    with progress.bar(f"{dataset.name}/{dataset.split}", len(own), unit="sequences") as advance:
        for sequence in own:
            _masks(bench, dataset, sequence, settings)
            advance(1)
    distributed.barrier()


def run(bench: Bench, dataset: Sequences, settings: Settings) -> Outcome:
    """J&F, J and F, means over all objects, with intervals over sequences; per-object values as predictions.

    The masks of finished sequences are cached, so that an interrupted run resumes with the next sequence.

    Raises: DataError: an unusable image or mask (named in the error). SettingsError: a net without patch tokens.
    """
    from protocols.vos.scoring import Task, score_all

    settings, deviations = _with_statistics(bench, settings)
    notes: tuple[str, ...] = ()
    masks = [_masks(bench, dataset, sequence, settings) for sequence in dataset.sequences]
    if settings.save_masks is not None:
        folder = Path(settings.save_masks).expanduser() / results.slug(bench.checkpoint.name)
        for sequence, path in zip(dataset.sequences, masks, strict=True):
            _save(folder / sequence.name, sequence, path)
        notes += (f"masks in {folder}",)
    if len(masks) < ROUGH:
        notes += (f"intervals over only {len(masks)} sequences are unreliable",)
    objects = score_all(
        [
            Task(
                name=sequence.name,
                truth=sequence.masks,
                result=path,
                drop_last=settings.last_dropped(),
                merged=settings.merged,
            )
            for sequence, path in zip(dataset.sequences, masks, strict=True)
        ]
    )
    flat = [one for of_sequence in objects for one in of_sequence]
    return Outcome(
        scores=_scores(bench, dataset, objects), predictions=_predictions(flat), deviations=deviations, notes=notes
    )


def _with_statistics(bench: Bench, settings: Settings) -> tuple[Settings, tuple[Deviation, ...]]:
    """The settings with the net's own pixel statistics, and the deviation if these are not ImageNet's."""
    mean, std = bench.checkpoint.mean, bench.checkpoint.std
    if np.allclose(mean, IMAGENET_MEAN, atol=1e-4) and np.allclose(std, IMAGENET_STD, atol=1e-4):
        return settings, ()
    text = f"frames normalised with the net's own mean {mean} and std {std}, not those of DINO's script"
    return replace(settings, mean=settings.mean or mean, std=settings.std or std), (
        Deviation(kind=DeviationKind.PREPROCESSING, text=text),
    )


def statistics_of(bench: Bench, settings: Settings) -> Settings:
    """The settings with the pixel statistics that frames are normalised with."""
    return _with_statistics(bench, settings)[0]


def _masks(bench: Bench, dataset: Sequences, sequence: Video, settings: Settings) -> Path:
    """Path of a sequence's masks, computed unless cached: .npz with `masks`, ids uint8 [T, H, W]."""
    key = _key(bench, dataset, sequence, settings)
    entry = CacheEntry(root=bench.cache, key=key)
    if not entry.ready():
        first = video.read_ids(sequence.masks[0])
        first = video.one_object(first) if settings.merged else first
        ids = propagate(bench.backbone, sequence.frames, first, settings)
        entry.write_arrays(MASKS, {"masks": ids})
    return entry.whole / MASKS


def _key(bench: Bench, dataset: Sequences, sequence: Video, settings: Settings) -> FeatureKey:
    state = hashlib.sha256()
    for path in (*sequence.frames, sequence.masks[0]):
        stat = path.stat()
        state.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    mean, std = settings.statistics()
    looks = f"{settings.previous} + 1 contexts, radius {settings.radius}, top {settings.topk}, T {settings.temperature}"
    return cache_key(
        bench.backbone,
        dataset=state.hexdigest(),
        split=f"{dataset.split} {sequence.name}",
        transform=f"short side {settings.size} bilinear (OpenCV), long side // 64, RGB/255, mean {mean}, std {std}",
        recipe=f"masks by {looks}{', objects merged' if settings.merged else ''}",
        version=VERSION,
    )


def _save(folder: Path, sequence: Video, masks: Path) -> None:
    with np.load(masks, allow_pickle=False) as archive:
        for frame, ids in zip(sequence.frames, archive["masks"], strict=True):
            write_ids(folder / f"{frame.stem}.png", ids)


def _scores(bench: Bench, dataset: Sequences, objects: Sequence[Sequence[ObjectScores]]) -> tuple[Score, ...]:
    """Means over objects. Their intervals come from resampling sequences, for the objects of one share its frames."""
    from evaltk.metrics.scores import bootstrap_bounds
    from evaltk.seeding import derive
    from protocols.vos.scoring import MEASURES, measures

    table = [np.array([measures(one) for one in of_sequence]) for of_sequence in objects]  # [objects, measures] each
    num_objects = sum(map(len, table))
    scores: list[Score] = []
    for i, measure in enumerate(MEASURES):
        items = np.array([[rows[:, i].sum(), len(rows)] for rows in table])
        rng = np.random.default_rng(derive(bench.seed, "vos", dataset.name, measure))
        interval = bootstrap_bounds(items, lambda s: s[..., 0].sum(axis=1) / s[..., 1].sum(axis=1), rng=rng)
        scores.append(
            Score(
                dataset=dataset.name,
                split=dataset.split,
                metric=measure,
                value=float(items[:, 0].sum() / num_objects),
                n=num_objects,
                interval=interval,
            )
        )
    return tuple(scores)


def _predictions(objects: Sequence[ObjectScores]) -> dict[str, np.ndarray]:
    """One row per object: its name, sequence and measures, and J and F of each scored frame (padded with NaN)."""
    from protocols.vos.scoring import MEASURES, measures

    longest = max(len(one.region) for one in objects)
    frames = np.full((2, len(objects), longest), np.nan, dtype=np.float64)
    for row, one in enumerate(objects):
        frames[0, row, : len(one.region)], frames[1, row, : len(one.boundary)] = one.region, one.boundary
    table = np.array([measures(one) for one in objects])
    return {
        "object": np.array([one.name for one in objects]),
        "sequence": np.array([one.sequence for one in objects]),
        **{name: table[:, i] for i, name in enumerate(MEASURES)},
        "J_frames": frames[0],
        "F_frames": frames[1],
    }
