"""J and F of 480p masks: `evaltk.metrics.segmentation` against the definition applied to whole frames, on one thread.

The plain version marks the boundary of the whole frame and dilates it by OR-ing one shifted copy for each pixel of the
disk, the quickest plain way in numpy (`scipy.ndimage.binary_dilation` with the same disk takes about ten times longer).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from evaltk.metrics import segmentation

SIZE = (480, 854)
NUM_FRAMES = 12
RADIUS = 8  # of 480 x 854
REPEATS = 3
# {what: share of the shorter side that the object's radius takes}
OBJECTS = {"small object": 0.1, "large object": 0.35}


def blobs(share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ground truth and result, bool [T, H, W]: a drifting wavy blob, and the same blob slightly displaced."""
    rng = np.random.default_rng(seed)
    rows, cols = np.ogrid[: SIZE[0], : SIZE[1]]
    masks = np.empty((2, NUM_FRAMES, *SIZE), dtype=np.bool_)
    for t in range(NUM_FRAMES):
        for i in range(2):
            y = 240 + 1.5 * t - 18 + i * rng.normal(0, 3)
            x = 300 + 8.0 * t + i * rng.normal(0, 3)
            angle = np.arctan2(rows - y, cols - x)
            wave = sum(rng.uniform(0, 0.04) * np.cos(n * angle + rng.uniform(0, 6.28)) for n in range(2, 12))
            masks[i, t] = np.hypot(rows - y, cols - x) < share * SIZE[0] * (1 + wave)
    return masks[0], masks[1]


def plain_scores(gt: np.ndarray, pred: np.ndarray) -> tuple[float, float]:
    """(J, F) of one frame, bool [H, W], step by step from the definition."""
    union = (gt | pred).sum()
    region = float((gt & pred).sum() / union) if union else 1.0
    truth, result = plain_boundary(gt), plain_boundary(pred)
    if not truth.any() or not result.any():
        return region, float(truth.any() == result.any())
    precision = (result & plain_dilation(truth)).sum() / result.sum()
    recall = (truth & plain_dilation(result)).sum() / truth.sum()
    return region, float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels [H, W] that differ from the right, lower or lower-right neighbour inside the image."""
    near = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != near[:-1, 1:]) | (mask != near[1:, :-1]) | (mask != near[1:, 1:])


def plain_dilation(edge: np.ndarray) -> np.ndarray:
    """The boundary [H, W] dilated by the disk x^2 + y^2 <= RADIUS^2."""
    height, width = edge.shape
    padded = np.pad(edge, RADIUS)
    found = np.zeros_like(edge)
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            if dx * dx + dy * dy <= RADIUS * RADIUS:
                top, left = RADIUS + dy, RADIUS + dx
                found |= padded[top : top + height, left : left + width]
    return found


def ours(gt: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """J and F, [2, T]."""
    return np.stack([segmentation.region_similarity(gt, pred), segmentation.boundary_similarity(gt, pred)])


def plain(gt: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """J and F, [2, T], by `plain_scores`."""
    return np.array([plain_scores(g, p) for g, p in zip(gt, pred, strict=True)]).T


def best_seconds(score: Callable[[np.ndarray, np.ndarray], np.ndarray], gt: np.ndarray, pred: np.ndarray) -> float:
    """CPU seconds of the fastest of a few runs, least affected by other load."""
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        score(gt, pred)
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    """Print, for a small and a large object, milliseconds per frame of both and their ratio."""
    print(f"J and F of {SIZE[1]} x {SIZE[0]} masks, {NUM_FRAMES} frames, one thread, milliseconds per frame")
    for seed, (what, share) in enumerate(OBJECTS.items()):
        gt, pred = blobs(share, seed)
        difference = float(np.abs(ours(gt, pred) - plain(gt, pred)).max())
        quick, slow = (best_seconds(score, gt, pred) / NUM_FRAMES * 1e3 for score in (ours, plain))
        print(f"{what}: plain {slow:.2f}, ours {quick:.2f}, ratio {slow / quick:.1f}x, differing by {difference:.0e}")


if __name__ == "__main__":
    main()
