"""Video object segmentation on DAVIS-2017: the first frame's masks carried on by the likeness of patch tokens.

Protocol: dino/eval_video_segmentation.py at 7c446df, scored as by davis2017-evaluation at ac7c43f.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from evaltk import progress, results, settings_rules
from evaltk.bench import Bench, Outcome
from evaltk.data import frames as video
from evaltk.data.frames import Frame
from evaltk.datasets.davis2017 import Sequence as Video
from evaltk.datasets.davis2017 import Sequences
from evaltk.deviations import Deviation, DeviationKind
from evaltk.features.cache import CacheEntry, cache_key
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, FeatureKey, Score

if TYPE_CHECKING:
    from evaltk.metrics.segmentation import ObjectScores
    from evaltk.models.backbone import Backbone
    from protocols.vos.propagation import Course

VERSION = 1  # of the protocol and of the masks in the cache
DINO_STD = (0.228, 0.224, 0.225)  # the first value is not ImageNet's 0.229; dino/eval_video_segmentation.py:244
MASKS = "masks.npz"  # the file of a cache entry
ROUGH = 10  # sequences below which an interval says little
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the propagation; the defaults are those of DINO's script.

    Attributes:
        preset: dino (first std 0.228, last frame not scored) or plain (the checkpoint's std, last frame scored).
        size: shorter side of the frames in pixels; the longer becomes a multiple of 64 (480).
        previous: frames before the target that it looks at, beside the first (7, eval_video_segmentation.py:260).
        radius: of the window it looks at in each of them, in tokens (12, :261).
        topk: most similar tokens that hand on their labels, equal ones beside (5, :263).
        temperature: a token weighs exp(cosine / temperature) (0.1, :125-129).
        mean: pixel mean of RGB in [0, 1]; default: the net's.
        std: pixel standard deviation; default: by the preset.
        drop_last: leave the last frame out of the score (the official semi-supervised task); default: by the preset.
        save_masks: folder to write palette PNGs into, FOLDER/CHECKPOINT/SEQUENCE/FRAME.png; default: none are written.
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
        """(mean, std) of the pixels, ImageNet's where nothing is said but for DINO's 0.228."""
        std = self.std or (DINO_STD if self.preset == "dino" else IMAGENET_STD)
        return self.mean or IMAGENET_MEAN, std

    def course(self) -> Course:
        """The settings as `protocols.vos.propagation` takes them."""
        from protocols.vos.affinity import Rules
        from protocols.vos.propagation import Course

        mean, std = self.statistics()
        rules = Rules(radius=self.radius, topk=self.topk, temperature=self.temperature)
        return Course(size=self.size, mean=mean, std=std, previous=self.previous, rules=rules)

    def last_dropped(self) -> bool:
        """Whether the last frame is left out of the score."""
        return self.preset == "dino" if self.drop_last is None else self.drop_last


def propagate(
    backbone: Backbone, frames: Sequence[Frame], first_mask: np.ndarray, settings: Settings | None = None
) -> np.ndarray:
    """Object ids of every frame, uint8 [T, H, W], from those of the first.

    The first mask comes back as it is. Its void pixels (255) count as background, ids may have gaps, and an object that
    vanishes when the mask is reduced to tokens is lost, as in the reference.

    Args:
        frames: paths or Pillow images, all of one size. first_mask: object ids [H, W], integers in [0, 255].

    Raises: DataError: no frame, an unreadable one, sizes that differ. SettingsError: a net without patch tokens.
    """
    from protocols.vos import propagation

    return propagation.propagate(backbone, frames, first_mask, (settings or Settings()).course())


def prepare(bench: Bench, dataset: Sequences, settings: Settings) -> None:
    """Make the masks of all sequences, every process its share. Raises: as `run`."""
    from evaltk import distributed

    settings, _ = _with_statistics(bench, settings)
    mine = dataset.sequences[distributed.rank() :: distributed.world_size()]
    with progress.bar(f"{dataset.name} {dataset.split}", len(mine), unit="sequences") as advance:
        for sequence in mine:
            _masks(bench, dataset, sequence, settings)
            advance(1)
    distributed.barrier()


def run(bench: Bench, dataset: Sequences, settings: Settings) -> Outcome:
    """J&F, J and F, means over all objects, with intervals over sequences; per-object values as predictions.

    The masks of each sequence are kept in the cache once they are whole, so that an interrupted run goes on with the
    next. Raises: DataError: an image or mask that will not do (it is named). SettingsError: a net without patches.
    """
    from protocols.vos import scoring as sequence_scores
    from protocols.vos.scoring import Task

    settings, deviations = _with_statistics(bench, settings)
    notes: tuple[str, ...] = ()
    masks = [_masks(bench, dataset, sequence, settings) for sequence in dataset.sequences]
    if settings.save_masks is not None:
        folder = Path(settings.save_masks).expanduser() / results.slug(bench.checkpoint.name)
        for sequence, path in zip(dataset.sequences, masks, strict=True):
            _save(folder / sequence.name, sequence, path)
        notes += (f"masks in {folder}",)
    if len(masks) < ROUGH:
        notes += (f"intervals over {len(masks)} sequences are rough",)
    objects = sequence_scores.score_all(
        [
            Task(name=sequence.name, truth=sequence.masks, result=path, drop_last=settings.last_dropped())
            for sequence, path in zip(dataset.sequences, masks, strict=True)
        ]
    )
    flat = [one for of_sequence in objects for one in of_sequence]
    return Outcome(
        scores=_scores(bench, dataset, objects), predictions=_predictions(flat), deviations=deviations, notes=notes
    )


def _with_statistics(bench: Bench, settings: Settings) -> tuple[Settings, tuple[Deviation, ...]]:
    """The settings with the net's own pixel statistics where these are not ImageNet's, which is then a deviation."""
    mean, std = bench.checkpoint.mean, bench.checkpoint.std
    if np.allclose(mean, IMAGENET_MEAN, atol=1e-4) and np.allclose(std, IMAGENET_STD, atol=1e-4):
        return settings, ()
    text = f"frames normalised by the net's own mean {mean} and std {std}, not by those of DINO's script"
    return replace(settings, mean=settings.mean or mean, std=settings.std or std), (
        Deviation(kind=DeviationKind.PREPROCESSING, text=text),
    )


def _masks(bench: Bench, dataset: Sequences, sequence: Video, settings: Settings) -> Path:
    """The file of a sequence's masks, made now or long ago: .npz with `masks`, ids uint8 [T, H, W]."""
    key = _key(bench, dataset, sequence, settings)
    entry = CacheEntry(root=bench.cache, key=key)
    if not entry.done():
        ids = propagate(bench.backbone, sequence.frames, video.read_ids(sequence.masks[0]), settings)
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
        recipe=f"masks by {looks}",
        version=VERSION,
    )


def _save(folder: Path, sequence: Video, masks: Path) -> None:
    with np.load(masks, allow_pickle=False) as found:
        for frame, ids in zip(sequence.frames, found["masks"], strict=True):
            video.write_ids(folder / f"{frame.stem}.png", ids)


def _scores(bench: Bench, dataset: Sequences, objects: Sequence[Sequence[ObjectScores]]) -> tuple[Score, ...]:
    """Means over objects. Their intervals come from resampling sequences, for the objects of one share its frames."""
    from evaltk.metrics.scores import bootstrap_bounds
    from evaltk.seeding import derive
    from protocols.vos.scoring import MEASURES, measures

    table = [np.array([measures(one) for one in of_sequence]) for of_sequence in objects]  # [objects, measures] each
    num_objects = sum(map(len, table))
    found = []
    for i, measure in enumerate(MEASURES):
        items = np.array([[rows[:, i].sum(), len(rows)] for rows in table])
        rng = np.random.default_rng(derive(bench.seed, "vos", dataset.name, measure))
        interval = bootstrap_bounds(items, lambda s: s[..., 0].sum(axis=1) / s[..., 1].sum(axis=1), rng=rng)
        found.append(
            Score(
                dataset=dataset.name,
                split=dataset.split,
                metric=measure,
                value=float(items[:, 0].sum() / num_objects),
                n=num_objects,
                interval=interval,
            )
        )
    return tuple(found)


def _predictions(objects: Sequence[ObjectScores]) -> dict[str, np.ndarray]:
    """A row an object: its name and sequence, its measures, and J and F of each scored frame (NaN after the last)."""
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
