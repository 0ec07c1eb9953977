"""Scores of video object segmentation as DAVIS-2017 defines them: region similarity J, boundary similarity F.

J is the intersection of two masks over their union. F is the harmonic mean of boundary precision and recall, where a
boundary pixel is met if the other boundary has a pixel within r of it: squared distance at most r^2, the same set as
after dilation by a disk.
Source: Perazzi et al. 2016, Pont-Tuset et al. 2017 (arXiv 1704.00675); davis2017-evaluation davis2017/metrics.py:6-178,
evaluation.py:22-35,84-90, utils.py:135-161, evaluation_method.py:43-45 at ac7c43f.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaltk.errors import DataError, SettingsError

BOUND = 0.008  # tolerance of F as a fraction of the image diagonal; metrics.py:40
RECALL_ABOVE = 0.5  # strict; utils.py:149
VOID = 255  # pixels of the truth that belong to nobody


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectScores:
    """J and F of one object.

    Attributes:
        sequence: its name. object_id: 1, 2, ... region, boundary: [T] float64 in [0, 1], one value a scored frame.
    """

    sequence: str
    object_id: int
    region: np.ndarray
    boundary: np.ndarray

    @property
    def name(self) -> str:
        """``bike-packing_1``, as the official per-sequence table writes it."""
        return f"{self.sequence}_{self.object_id}"

    def columns(self) -> dict[str, float]:
        """{J-Mean, J-Recall, J-Decay, F-Mean, F-Recall, F-Decay}, fractions."""
        values = (*frame_statistics(self.region), *frame_statistics(self.boundary))
        return dict(zip(("J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"), values, strict=True))


def region_similarity(gt: Any, pred: Any) -> np.ndarray:
    """J of one object, [T] float64 in [0, 1]; 1 where both masks are empty.

    Args:
        gt, pred: bool [T, H, W], or integers 0 and 1.

    Raises: DataError: other shapes or values. Source: metrics.py:6-37.
    """
    gt, pred = _masks(gt, pred)
    found = np.ones(len(gt))
    for t, (truth, result) in enumerate(zip(gt, pred, strict=True)):
        if union := np.count_nonzero(truth | result):
            found[t] = np.count_nonzero(truth & result) / union
    return found


def boundary_similarity(gt: Any, pred: Any, *, bound: float = BOUND) -> np.ndarray:
    """F of one object, [T] float64 in [0, 1]; 1 where neither mask has a boundary, 0 where only one has.

    Args:
        gt, pred: bool [T, H, W], or integers 0 and 1.
        bound: the tolerance, below 1 as a fraction of the image diagonal (rounded up), else in whole pixels.

    Raises: DataError: other shapes or values. SettingsError: bound. Source: metrics.py:57-119.
    """
    gt, pred = _masks(gt, pred)
    radius = tolerance(gt.shape[1], gt.shape[2], bound=bound)
    return np.array([_frame(truth, result, radius) for truth, result in zip(gt, pred, strict=True)], dtype=np.float64)


def tolerance(height: int, width: int, *, bound: float = BOUND) -> int:
    """Radius r in pixels within which boundaries meet: 8 for 480 x 854. Raises: SettingsError: bound."""
    if not bound >= 0 or (bound >= 1 and bound % 1):  # inf % 1 is NaN, which is true
        raise SettingsError(wanted="a fraction in [0, 1) or whole pixels", got=repr(bound), where="bound")
    return int(bound) if bound >= 1 else math.ceil(bound * math.sqrt(height * height + width * width))


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower-right neighbour, bool [..., H, W] like the mask.

    The border of the image is no boundary: the last row looks to the right only, the last column down only, the last
    corner nowhere. Source: metrics.py:122-178.
    """
    edge = np.zeros(mask.shape, dtype=np.bool_)
    edge[..., :, :-1] = mask[..., :, :-1] != mask[..., :, 1:]
    edge[..., :-1, :] |= mask[..., :-1, :] != mask[..., 1:, :]
    edge[..., :-1, :-1] |= mask[..., :-1, :-1] != mask[..., 1:, 1:]
    return edge


def frame_statistics(values: Any) -> tuple[float, float, float]:
    """(mean, recall, decay) of one object's J or F over its frames.

    Recall is the share of frames above 0.5; decay is the mean of the first quarter less that of the last. NaN is left
    out of the means but counts as a frame not recalled, as the original has it; nothing but NaN gives NaN.

    Args:
        values: [T] in [0, 1].

    Raises: DataError: no frame, or not one value a frame. Source: utils.py:135-161.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(wanted="one value a frame, [T]", got=f"shape {list(values.shape)}", where="frame_statistics")
    borders = quarter_borders(len(values))
    first, last = (_nanmean(values[borders[i] : borders[i + 1] + 1]) for i in (0, 3))
    return _nanmean(values), float(np.mean(values > RECALL_ABOVE)), first - last


def quarter_borders(num_frames: int) -> np.ndarray:
    """First frame of each quarter and the last frame of all, [5] int64; a quarter holds both of its borders.

    The original casts them to uint8, which is wrong above 256 frames; up to there these are the same.
    """
    return (np.round(np.linspace(1, num_frames, 5) + 1e-10) - 1).astype(np.int64)


def evaluate_sequence(
    gt_ids: Any, pred_ids: Any, *, sequence: str = "", bound: float = BOUND, drop_ends: bool = True
) -> tuple[ObjectScores, ...]:
    """J and F of each object 1 .. highest id of the first true frame, in that order.

    An id that a frame lacks is an empty mask there, and so is a gap in the numbering; ids that only later true frames
    have are no objects. Void (255) in the truth is background.

    Args:
        gt_ids, pred_ids: integer object ids [T, H, W], 0 for background.
        drop_ends: leave out the first frame (the method was given it) and the last, as in the semi-supervised task.

    Raises: DataError: shapes that differ, no object, too few frames, a scored result frame with an id above the
        objects (the original stops there with status 0).
    """
    truth, result = (np.asarray(ids) for ids in (gt_ids, pred_ids))
    where = f"sequence {sequence}" if sequence else "sequence"
    if truth.shape != result.shape or truth.ndim != 3 or not all(a.dtype.kind in "iu" for a in (truth, result)):
        raise DataError(
            wanted="object ids of truth and result alike [T, H, W]",
            got=f"{list(truth.shape)} {truth.dtype} and {list(result.shape)} {result.dtype}",
            where=where,
            do="give index masks (mode P or L, not RGB), one result for each true frame, at its size",
        )
    kept = slice(1, -1) if drop_ends else slice(None)
    if not len(truth[kept]):
        raise DataError(wanted="a frame to score", got=f"{len(truth)} frames, the first and last unscored", where=where)
    num_objects = int(np.max(truth[0], where=truth[0] != VOID, initial=0))
    if not num_objects:
        raise DataError(wanted="an object in the first annotation", got="none", where=where)
    truth, result = truth[kept], result[kept]
    for t, ids in enumerate(result, start=kept.start or 0):
        if ids.min() < 0 or ids.max() > num_objects:
            raise DataError(
                wanted=f"object ids 0 to {num_objects}, those of the first annotation",
                got=f"id {ids.min() if ids.min() < 0 else ids.max()}",
                where=f"{where}, result frame {t}",
            )
    found = []
    for i in range(1, num_objects + 1):
        gt, pred = truth == i, result == i
        region, boundary = region_similarity(gt, pred), boundary_similarity(gt, pred, bound=bound)
        found.append(ObjectScores(sequence=sequence, object_id=i, region=region, boundary=boundary))
    return tuple(found)


def summarise(objects: Iterable[ObjectScores]) -> dict[str, float]:
    """The official global table, fractions: each column's mean over all objects of all sequences, and J&F-Mean.

    Raises: DataError: no object. Source: evaluation_method.py:43-45.
    """
    rows = [one.columns() for one in objects]
    if not rows:
        raise DataError(wanted="the scores of at least one object", got="none", where="summarise")
    means = {column: float(np.mean([row[column] for row in rows])) for column in rows[0]}
    return {"J&F-Mean": (means["J-Mean"] + means["F-Mean"]) / 2, **means}


def _nanmean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _masks(gt: Any, pred: Any) -> tuple[np.ndarray, np.ndarray]:
    gt, pred = np.asarray(gt), np.asarray(pred)
    for name, mask in (("gt", gt), ("pred", pred)):
        if mask.ndim != 3 or mask.shape != gt.shape:
            got = f"{list(mask.shape)}" + ("" if mask is gt else f" beside gt {list(gt.shape)}")
            raise DataError(wanted="masks gt and pred alike [T, H, W]", got=got, where=name)
        if mask.dtype != np.bool_ and (mask.dtype.kind not in "iu" or np.any((mask != 0) & (mask != 1))):
            got = f"{mask.dtype} {np.unique(mask)[:4].tolist()}"
            do = "pass ids == object_id, or all ids to evaluate_sequence"
            raise DataError(wanted="bool masks of one object, or integers 0 and 1", got=got, where=name, do=do)
    return gt.astype(np.bool_, copy=False), pred.astype(np.bool_, copy=False)


def _frame(gt: np.ndarray, pred: np.ndarray, radius: int) -> float:
    """F of one frame from bool [H, W] masks."""
    window = _window(gt | pred)
    if window is None:
        return 1.0
    # The rows of a boundary, zeros between, are one long integer of bits: dilation is a few shifts and ORs of it.
    edges = [boundary_map(mask[window]) for mask in (gt, pred)]
    radius = min(radius, sum(edges[0].shape))
    stride = edges[0].shape[1] + radius
    truth, result = (_bits(edge, stride) for edge in edges)
    num_truth, num_result = truth.bit_count(), result.bit_count()
    if not num_truth or not num_result:
        return float(num_truth == num_result)
    precision = (result & _dilate(truth, radius, stride)).bit_count() / num_result
    recall = (truth & _dilate(result, radius, stride)).bit_count() / num_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _window(mask: np.ndarray) -> tuple[slice, slice] | None:
    """The box around a mask [H, W] with one pixel to spare where the image has it; None for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    cols = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(cols[0] - 1, 0), cols[-1] + 2)


def _bits(edge: np.ndarray, stride: int) -> int:
    rows = np.zeros((len(edge), stride), dtype=np.bool_)
    rows[:, : edge.shape[1]] = edge
    return int.from_bytes(np.packbits(rows).tobytes(), "big")


def _dilate(bits: int, radius: int, stride: int) -> int:
    """Pixels with a set one at squared distance <= radius^2; rows are `stride` bits, the last `radius` of them 0."""
    runs, longest = {1: bits}, 1  # {n: bits OR-ed with the n - 1 to one side}
    while longest <= radius:
        runs[2 * longest] = runs[longest] | runs[longest] << longest
        longest *= 2
    found, spans = 0, {}
    for dy in range(radius + 1):
        half = math.isqrt(radius * radius - dy * dy)  # the disk is 2 half + 1 wide here
        if half not in spans:
            run = 1 << ((2 * half + 1).bit_length() - 1)
            spans[half] = (runs[run] | runs[run] << (2 * half + 1 - run)) >> half
        found |= spans[half] << dy * stride | spans[half] >> dy * stride
    return found
