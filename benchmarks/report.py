"""The page of 50 checkpoints: seconds that `evaltk report` takes, and the size of its file.

Results are made up: k-NN, linear, few-shot, transfer, retrieval and VOS with predictions, prototypes with galleries.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from evaltk import results
from evaltk.types import OriginProof, PixelView, Preprocessing, Result, ResultData, Score, digest

CHECKPOINTS = 50
BANK, IMAGES, QUERIES, PROTOTYPES = 1000, 10_000, 70, 8192
K = (5, 10, 20, 50, 100, 200)
EVAL = PixelView(text="resize 256, centre crop 224", resize=256, crop=224, interpolation="bicubic")
LOOKS = Preprocessing(precision="fp32", position="dino", views={"eval": EVAL})

Made = tuple[str, dict[str, object], list[Score], dict[str, np.ndarray]]  # protocol, settings, scores, predictions


def protocols(rng: np.random.Generator, target: np.ndarray, level: float) -> Iterator[tuple[str, Made]]:
    """(dataset, result) for every protocol of one checkpoint; `level`: its accuracy."""
    for data in ("cifar10", "cifar100"):
        yield data, knn(rng, data, target, level)
    yield "cifar10", linear(rng, target, level)
    for data in ("roxford5k", "rparis6k"):
        yield data, items(rng, "retrieval", data, "queries", ("medium_mAP", "hard_mAP"), "{}_ap", QUERIES)
    yield "davis2017", items(rng, "vos", "davis2017", "val", ("J&F", "J", "F"), "{}", 61)
    yield "cifar10", fewshot(rng, level)
    yield "digits", prototypes(rng)


def knn(rng: np.random.Generator, data: str, target: np.ndarray, level: float) -> Made:
    """k-NN with predictions for six k."""
    arrays, scores = {"target": target}, []
    for k in K:
        predicted = np.where(rng.random(len(target)) < level - k / 4000, target, target + 1).astype(np.int32)
        arrays[f"k{k}_t0.07"] = predicted
        value = float((predicted == target).mean())
        scores.append(score(data, "test", "top1", value, len(target), {"k": k, "temperature": 0.07}))
    best = max(scores, key=lambda s: s.value)
    scores.append(score(data, "test", "top1_best_k", best.value, best.n, dict(best.at)))
    return "knn", {"k": list(K), "temperature": [0.07], "choose": 5000, "backend": "torch"}, scores, arrays


def linear(rng: np.random.Generator, target: np.ndarray, level: float) -> Made:
    """Two linear probes."""
    arrays, scores = {"target": target}, []
    for head in ("C", "D"):
        arrays[f"{head}_last"] = np.where(rng.random(len(target)) < level, target, target + 1).astype(np.int32)
        value = float((arrays[f"{head}_last"] == target).mean())
        scores.append(score("cifar10", "test", f"{head}_top1", value, len(target), {"lr": 0.1, "epoch": 100}))
    return "linear", {"epochs": 100, "batch": 1024}, scores, arrays


def items(
    rng: np.random.Generator, protocol: str, data: str, split: str, metrics: tuple[str, ...], name: str, n: int
) -> Made:
    """Means over queries or objects, with their values."""
    arrays: dict[str, np.ndarray] = {"query": np.arange(n)} if protocol == "retrieval" else {}
    if protocol == "vos":
        arrays = {"sequence": np.arange(n) // 2, "object": np.arange(n) % 2}
    scores = []
    for metric in metrics:
        values = rng.random(n)
        arrays[name.format(metric.removesuffix("_mAP"))] = values
        scores.append(score(data, split, metric, float(values.mean()), n, {}))
    return protocol, {"preset": "dino"}, scores, arrays


def fewshot(rng: np.random.Generator, level: float) -> Made:
    """Means over three splits, with their deviations."""
    scores = []
    for shots, less in ((1, 0.3), (2, 0.2), (5, 0.1)):
        at = {"shots": shots, "penalty": 0.075, "splits": 3, "images": "drawn", "feature": "pre-norm, bilinear"}
        scores.append(score("cifar10", "test", "top1_mean", level - less, IMAGES, at))
        scores.append(score("cifar10", "test", "top1_std_sample", 0.01 + 0.01 * rng.random(), 3, at))
    return "fewshot", {"preset": "msn", "penalty": [0.075], "shots": [1, 2, 5]}, scores, {}


def prototypes(rng: np.random.Generator) -> Made:
    """Near-copies, usage and a gallery of photograph-like thumbnails, the largest that the protocol makes."""
    at = {"threshold": 0.9, "reading": "leader"}
    thresholds = (0.5, 0.7, 0.9, 0.95)
    values = ((metric, {"threshold": t, "reading": "leader"}) for metric in ("unique_count", "largest_count")
              for t in thresholds)  # fmt: skip
    scores = [score("digits", "weights", metric, 4000.0, PROTOTYPES, told) for metric, told in values]
    scores += [score("digits", "weights", "largest_at_0.9_count", 800.0, PROTOTYPES, at)]
    coarse = rng.integers(0, 256, (16, 8, 12, 12, 3), dtype=np.uint8)
    thumbnails = [[Image.fromarray(one).resize((64, 64), Image.Resampling.BICUBIC) for one in row] for row in coarse]
    arrays = {
        "kappa": rng.gamma(9, 3, PROTOTYPES).astype(np.float32),
        "counts": rng.integers(0, 9, PROTOTYPES),
        "purity": rng.random(PROTOTYPES).astype(np.float32),
        "sizes_leader_0.9": np.sort(rng.integers(1, 9, 4000))[::-1],
        "projection": rng.standard_normal((PROTOTYPES, 2)),
        "projection_share": np.array([0.3, 0.1]),
        "void": np.zeros(PROTOTYPES, dtype=bool),
        "gallery_kind": np.repeat(["largest", "sharpest", "broadest", "purest"], 4),
        "gallery_prototype": np.arange(16),
        "gallery_cosine": np.sort(rng.random((16, 8)))[:, ::-1],
        "gallery_images": np.array([[np.asarray(one) for one in row] for row in thumbnails]),
    }
    return "prototypes", {"threshold": 0.9, "thresholds": list(thresholds)}, scores, arrays


def score(data: str, split: str, metric: str, value: float, n: int, at: dict[str, object]) -> Score:
    """A score with an interval, but for counts and means over splits."""
    interval = None if value > 1 or "_mean" in metric or "_std" in metric else (0.98 * value, 1.02 * value)
    return Score(dataset=data, split=split, metric=metric, value=value, n=n, at=at, interval=interval)


def write(folder: Path, checkpoints: int = CHECKPOINTS) -> int:
    """Write eight results a checkpoint. Returns: how many files."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 10, IMAGES)
    count = 0
    for c in range(checkpoints):
        name = f"run{c // 10}/checkpoint-epoch{10 * (c % 10 + 1):04d}"
        checkpoint = {"name": name, "sha256": digest(name), "digest": digest(name), "family": "dino"}
        checkpoint |= {"branch": "teacher", "arch": {"name": "vit_small_patch16_224"}, "epoch": 10 * (c % 10 + 1)}
        for data, (protocol, settings, scores, arrays) in protocols(rng, target, 0.6 + 0.3 * rng.random()):
            made = {"versions": {"python": "3.11"}, "device": "cpu", "seconds": {"scoring": 1.0}}
            request = digest([name, protocol, data])
            result = Result(
                checkpoint=checkpoint,
                protocol=protocol,
                version=1,
                settings=settings,
                data=ResultData(name=data, fingerprint=digest(data)),
                preprocessing=LOOKS,
                scores=tuple(scores),
                seed=0,
                request=request,
                made=made,
                origin_proof=OriginProof.LAYOUT,
            )
            results.write(results.path_of(folder, name, protocol, data, request), result, arrays)
            count += 1
    return count


def main() -> None:
    """Print seconds and megabytes, beside what is allowed."""
    from reports.page.build import build_page

    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        count = write(runs)
        start, used = time.perf_counter(), time.process_time()
        text = build_page(list(results.find(runs)), runs=runs)
        taken, worked = time.perf_counter() - start, time.process_time() - used
    size = len(text.encode()) / 1e6
    print(f"page of {CHECKPOINTS} checkpoints, {count} results: {taken:.1f} s, {worked:.1f} s of processor, of 10 s")
    print(f"size {size:.1f} MB of 20 MB")


if __name__ == "__main__":
    main()
