"""Segmentation of frozen patch tokens: what is run, and its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evaltk.bench import Bench, Extracts, Outcome
from evaltk.data.dense import DenseDataset
from evaltk.data.transforms import SMALL
from evaltk.types import PixelView, Score
from protocols.segmentation.settings import SIDE, Settings

if TYPE_CHECKING:
    import numpy as np

    from protocols.segmentation.methods import Segment
    from protocols.segmentation.views import Views


def check(dataset: DenseDataset, settings: Settings) -> None:
    """Nothing: splits are checked as they are listed."""


def extracts(bench: Bench, dataset: DenseDataset, settings: Settings) -> Extracts:
    """None: tokens are used at once and not kept."""
    return ()


def side_of(bench: Bench, settings: Settings) -> int:
    """Side of crops in pixels, whole patches."""
    arch = bench.backbone.arch
    patch = max(1, arch.patch_size)
    usual = SIDE if arch.img_size >= SMALL else 4 * arch.img_size
    return max(1, round((settings.side or usual) / patch)) * patch


def run(bench: Bench, dataset: DenseDataset, settings: Settings) -> Outcome:
    """mIoU, pixel accuracy and mean class accuracy of each method over all pixels of the test images.

    Raises: DataError: label maps of another size or with unknown ids, unreadable images. SettingsError: a size that the
        net cannot take.
    """
    import numpy as np

    from protocols.segmentation import methods
    from protocols.segmentation.views import Views

    views = Views(
        side=side_of(bench, settings),
        patch=max(1, bench.backbone.arch.patch_size),
        scaled=settings.preset == "dinov2",
        transform=bench.transform(),
        seed=bench.seed,
    )
    scores: list[Score] = []
    arrays: dict[str, np.ndarray] = {"class_names": np.asarray(dataset.test.classes)}
    notes: list[str] = []
    for name in dict.fromkeys(settings.methods):
        at: dict[str, object] = {"method": name, "side": views.side}
        if name == "linear":
            segment, losses = methods.linear(bench, dataset.train, views, settings)
            at |= {"steps": settings.steps(), "batch": settings.batch}
            arrays["loss"] = np.asarray(losses, dtype=np.float32)
        else:
            segment, number = methods.nearest(bench, dataset.train, views, settings)
            at |= {"k": min(settings.k, number), "bank": number}
        matrix, each = evaluate(bench, dataset, views, segment)
        scores += _scores(dataset, matrix, at)
        arrays[f"confusion_{name}"], arrays[f"miou_by_image_{name}"] = matrix, each
    notes.append("unlike DINOv2: no photometric distortion in training, test images whole instead of in sliding crops")
    return Outcome(scores=tuple(scores), predictions=arrays, notes=tuple(notes), views={"eval": _recorded(views)})


def evaluate(bench: Bench, dataset: DenseDataset, views: Views, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    """(confusion matrix [C, C] over all test pixels, mIoU of each image [N]) at the label maps' own sizes."""
    import numpy as np
    from torch.nn import functional as F

    from evaltk import progress
    from evaltk.metrics import iou
    from protocols.segmentation.methods import grid_tokens

    split, number = dataset.test, len(dataset.test.classes)
    matrix, each = np.zeros((number, number), dtype=np.int64), []
    with progress.bar(f"{split.dataset} {split.name}", len(split)) as advance:
        for index in range(len(split)):
            pixels, labels = split.pair(index)
            scores = segment(grid_tokens(bench.backbone, views.whole(pixels))[0])
            larger = F.interpolate(scores[None], size=labels.shape, mode="bilinear", align_corners=False)[0]
            found = iou.confusion(labels, larger.argmax(dim=0).cpu().numpy(), number)
            matrix += found
            each.append(iou.overlap(found).miou if found.sum() else np.nan)
            advance(1)
    return matrix, np.asarray(each, dtype=np.float32)


def _scores(dataset: DenseDataset, matrix: np.ndarray, at: dict[str, object]) -> list[Score]:
    import numpy as np

    from evaltk.metrics import iou

    found = iou.overlap(matrix)
    n = len(dataset.test)

    def score(metric: str, value: float, **more: Any) -> Score:
        split = dataset.test.name
        return Score(dataset=dataset.name, split=split, metric=metric, value=value, n=n, at=at | more)

    classes = [
        score("iou", float(value), class_name=dataset.test.classes[c])
        for c, value in enumerate(found.iou)
        if np.isfinite(value)
    ]
    return [
        score("miou", found.miou, classes=len(classes)),
        score("pixel_accuracy", found.pixel_accuracy),
        score("mean_accuracy", found.mean_accuracy),
        *classes,
    ]


def _recorded(views: Views) -> PixelView:
    t = views.transform
    sizes = f"shorter side {views.side} {t.interpolation} (Pillow), both sides to whole patches"
    text = f"{sizes}, mean {t.mean}, std {t.std}"
    return PixelView(text=text, resize=views.side, interpolation=t.interpolation, mean=t.mean, std=t.std)
