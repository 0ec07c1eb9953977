"""Video object segmentation metrics of DAVIS-2017: region similarity J and boundary similarity F.

J is the intersection over union of two masks. F is the harmonic mean of boundary precision and recall, where a boundary
pixel is matched if the other boundary has a pixel within distance r (squared distance at most r^2), i.e. lies in the
other boundary dilated by a disk.
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
VOID = 255  # unlabelled pixels of the ground truth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectScores:
    """J and F of one object.

    Attributes:
        sequence: name. object_id: 1, 2, ... region, boundary: J and F, [T] float64 in [0, 1], one per scored frame.
    """

    sequence: str
    object_id: int
    region: np.ndarray
    boundary: np.ndarray

    @property
    def name(self) -> str:
        """``bike-packing_1``, as in the official per-sequence table."""
        return f"{self.sequence}_{self.object_id}"

    def columns(self) -> dict[str, float]:
        """{"J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"} as fractions."""
        values = (*frame_statistics(self.region), *frame_statistics(self.boundary))
        return dict(zip(("J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"), values, strict=True))


def region_similarity(gt: Any, pred: Any) -> np.ndarray:
    """J of one object, [T] float64 in [0, 1]; 1 where both masks are empty.

    Args:
        gt, pred: bool [T, H, W], or integers 0 and 1.

    Raises: DataError: other shapes or values. Source: metrics.py:6-37.

    >>> region_similarity([[[1, 1, 0, 0]]], [[[0, 1, 1, 0]]])
    array([0.33333333])
    """
    gt, pred = _masks(gt, pred)
    similarity = np.ones(len(gt))
    for t, (truth, result) in enumerate(zip(gt, pred, strict=True)):
        if union := np.count_nonzero(truth | result):
            similarity[t] = np.count_nonzero(truth & result) / union
    return similarity


def boundary_similarity(gt: Any, pred: Any, *, bound: float = BOUND) -> np.ndarray:
    """F of one object, [T] float64 in [0, 1]; 1 where neither mask has a boundary, 0 where only one has.

    Args:
        gt, pred: bool [T, H, W], or integers 0 and 1.
        bound: the tolerance: below 1 a fraction of the image diagonal (rounded up), else whole pixels.

    Raises: DataError: other shapes or values. SettingsError: bound. Source: metrics.py:57-119.

    >>> boundary_similarity([[[1, 1, 0, 0]]], [[[0, 1, 1, 1]]], bound=1)  # boundary pixel 1 against pixel 0
    array([1.])
    """
    gt, pred = _masks(gt, pred)
    radius = tolerance(gt.shape[1], gt.shape[2], bound=bound)
    return np.array([_frame(truth, result, radius) for truth, result in zip(gt, pred, strict=True)], dtype=np.float64)


def tolerance(height: int, width: int, *, bound: float = BOUND) -> int:
    """Radius r in pixels within which boundary pixels match. Raises: SettingsError: bound.

    >>> tolerance(480, 854)
    8
    """
    if not bound >= 0 or (bound >= 1 and bound % 1):  # inf % 1 is NaN, which is true
        do = "use the official 0.008, or an integer number of pixels"
        raise SettingsError(wanted="a fraction in [0, 1) or whole pixels", got=repr(bound), where="bound", do=do)
    return int(bound) if bound >= 1 else math.ceil(bound * math.sqrt(height * height + width * width))


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower-right neighbour: bool [..., H, W], like the mask.

    The image border is not a boundary: the last row is compared to the right only, the last column downwards only.
    Source: metrics.py:122-178.

    >>> boundary_map(np.array([[0, 1, 1], [0, 1, 1]])).astype(int)
    array([[1, 0, 0],
           [1, 0, 0]])
    """
    edge = np.zeros(mask.shape, dtype=np.bool_)
    edge[..., :, :-1] = mask[..., :, :-1] != mask[..., :, 1:]
    edge[..., :-1, :] |= mask[..., :-1, :] != mask[..., 1:, :]
    edge[..., :-1, :-1] |= mask[..., :-1, :-1] != mask[..., 1:, 1:]
    return edge


def frame_statistics(values: Any) -> tuple[float, float, float]:
    """(mean, recall, decay) of one object's J or F over its frames.

    Recall is the fraction of frames above 0.5; decay is the mean of the first quarter minus that of the last. NaN is
    excluded from the means but counts as a frame not recalled, as in the original; all NaN gives NaN.

    Args:
        values: [T] in [0, 1].

    Raises: DataError: no frames, or not one value per frame. Source: utils.py:135-161.

    >>> frame_statistics([1.0, 0.75, 0.5, 0.25])
    (0.625, 0.5, 0.5)
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        got, do = f"shape {list(values.shape)}", "pass the J or F of a single object"
        raise DataError(wanted="one value per frame, [T]", got=got, where="frame_statistics", do=do)
    borders = quarter_borders(len(values))
    first, last = (_nanmean(values[borders[i] : borders[i + 1] + 1]) for i in (0, 3))
    return _nanmean(values), float(np.mean(values > RECALL_ABOVE)), first - last


def quarter_borders(num_frames: int) -> np.ndarray:
    """First frame of each quarter, and the last frame: [5] int64. A quarter includes both of its borders.

    The original casts them to uint8, which overflows above 256 frames; up to there the borders are the same.

    >>> quarter_borders(8)
    array([0, 2, 4, 5, 7])
    """
    return (np.round(np.linspace(1, num_frames, 5) + 1e-10) - 1).astype(np.int64)


def evaluate_sequence(
    gt_ids: Any, pred_ids: Any, *, sequence: str = "", bound: float = BOUND, drop_ends: bool = True
) -> tuple[ObjectScores, ...]:
    """J and F of each object 1 .. highest id in the first ground-truth frame, in that order.

    An id that is absent from a frame, or skipped in the numbering, is an empty mask; ids that only appear in later
    ground-truth frames are ignored. Void (255) in the ground truth is background.

    Args:
        gt_ids, pred_ids: integer object ids [T, H, W], 0 for background.
        drop_ends: exclude the first frame (given to the method) and the last, as in the semi-supervised task.

    Raises: DataError: shapes that differ, no object, too few frames, a scored result frame with an id above those of
        the objects (the original exits there, with status 0).

    >>> ids = np.zeros((3, 4, 4), dtype=np.uint8)
    >>> ids[:, :2, :2] = 1
    >>> [(o.name, o.region, o.boundary) for o in evaluate_sequence(ids, ids, sequence="toy")]
    [('toy_1', array([1.]), array([1.]))]
    """
    truth, result = (np.asarray(ids) for ids in (gt_ids, pred_ids))
    where = f"sequence {sequence}" if sequence else "sequence"
    if truth.shape != result.shape or truth.ndim != 3 or not all(a.dtype.kind in "iu" for a in (truth, result)):
        raise DataError(
            wanted="object ids of ground truth and result, both [T, H, W]",
            got=f"{list(truth.shape)} {truth.dtype} and {list(result.shape)} {result.dtype}",
            where=where,
            do="give index masks (mode P or L, not RGB), one result per ground-truth frame, of the same size",
        )
    kept = slice(1, -1) if drop_ends else slice(None)
    if not len(truth[kept]):
        got = f"{len(truth)} frames, of which the first and last are not scored"
        raise DataError(wanted="a frame to score", got=got, where=where, do="give at least three frames")
    num_objects = int(np.max(truth[0], where=truth[0] != VOID, initial=0))
    if not num_objects:
        do = "annotate the first frame with ids 1, 2, ..."
        raise DataError(wanted="an object in the first annotation", got="none", where=where, do=do)
    truth, result = truth[kept], result[kept]
    for t, ids in enumerate(result, start=kept.start or 0):
        if ids.min() < 0 or ids.max() > num_objects:
            raise DataError(
                wanted=f"object ids 0 to {num_objects}, those of the first annotation",
                got=f"id {ids.min() if ids.min() < 0 else ids.max()}",
                where=f"{where}, result frame {t}",
                do="write only the ids of the first annotation",
            )
    scores = []
    for i in range(1, num_objects + 1):
        gt, pred = truth == i, result == i
        region, boundary = region_similarity(gt, pred), boundary_similarity(gt, pred, bound=bound)
        scores.append(ObjectScores(sequence=sequence, object_id=i, region=region, boundary=boundary))
    return tuple(scores)


def summarise(objects: Iterable[ObjectScores]) -> dict[str, float]:
    """The official global table as fractions: the mean of each column over all objects, and J&F-Mean.

    Raises: DataError: no object. Source: evaluation_method.py:43-45.

    >>> one = ObjectScores(sequence="a", object_id=1, region=np.array([0.5, 0.7]), boundary=np.array([0.8, 0.8]))
    >>> round(summarise([one])["J&F-Mean"], 12)
    0.7
    """
    rows = [one.columns() for one in objects]
    if not rows:
        do = "evaluate a sequence with an object"
        raise DataError(wanted="the scores of at least one object", got="none", where="summarise", do=do)
    means = {column: float(np.mean([row[column] for row in rows])) for column in rows[0]}
    return {"J&F-Mean": (means["J-Mean"] + means["F-Mean"]) / 2, **means}


def _nanmean(values: np.ndarray) -> float:
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else math.nan


def _masks(gt: Any, pred: Any) -> tuple[np.ndarray, np.ndarray]:
    gt, pred = np.asarray(gt), np.asarray(pred)
    for name, mask in (("gt", gt), ("pred", pred)):
        if mask.ndim != 3 or mask.shape != gt.shape:
            got = f"{list(mask.shape)}" + ("" if mask is gt else f" beside gt {list(gt.shape)}")
            do = "give one mask of the same size per frame"
            raise DataError(wanted="masks gt and pred, both [T, H, W]", got=got, where=name, do=do)
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
    # A boundary is packed into one long integer, its rows padded with zeros: dilation is then a few shifts and ORs.
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
    """Bounding box of a mask [H, W] with a margin of one pixel inside the image; None for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    cols = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(cols[0] - 1, 0), cols[-1] + 2)


def _bits(edge: np.ndarray, stride: int) -> int:
    """Boundary pixels bool [H, W] as an integer: one bit per pixel, `stride` bits per row, the padding 0.

    >>> bin(_bits(np.array([[1, 0], [1, 1]], dtype=bool), stride=4))  # rows 1000 1100, zero bits up to a whole byte
    '0b10001100'
    """
    rows = np.zeros((len(edge), stride), dtype=np.bool_)
    rows[:, : edge.shape[1]] = edge
    return int.from_bytes(np.packbits(rows).tobytes(), "big")


def _dilate(bits: int, radius: int, stride: int) -> int:
    """Dilate by a disk: set every pixel within squared distance radius^2 of a set one.

    Rows have `stride` bits, the last `radius` of them 0, so that shifts within a row do not reach the next. Each row dy
    of the disk is a horizontal run of 2 half + 1 pixels; a dilation by a run of n is the OR of two overlapping runs of
    the next smaller power of two, which doubling gives.
    """
    runs, longest = {1: bits}, 1  # {n: bits OR-ed with the n - 1 pixels to one side}
    while longest <= radius:
        runs[2 * longest] = runs[longest] | runs[longest] << longest
        longest *= 2
    dilated, spans = 0, {}
    for dy in range(radius + 1):
        half = math.isqrt(radius * radius - dy * dy)  # the disk is 2 half + 1 wide in this row
        if half not in spans:
            run = 1 << ((2 * half + 1).bit_length() - 1)
            spans[half] = (runs[run] | runs[run] << (2 * half + 1 - run)) >> half
        dilated |= spans[half] << dy * stride | spans[half] >> dy * stride
    return dilated
