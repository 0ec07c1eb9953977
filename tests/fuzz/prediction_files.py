"""Results with the arrays that lie beside them, for the fuzzing of what reads both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evaltk import results
from evaltk.types import OriginProof, PixelView, Preprocessing, Result, ResultData, Score


def pairs(folder: Path) -> list[tuple[bytes, Mapping[str, np.ndarray]]]:
    """(text of a result file, its arrays) of a k-NN and a retrieval result each of two checkpoints."""
    rng = np.random.default_rng(0)
    target = np.arange(40) % 4
    out: list[tuple[bytes, Mapping[str, np.ndarray]]] = []
    for name in ("one", "two"):
        right = rng.random(40) < 0.8
        arrays = {"target": target, "k20_t0.07": np.where(right, target, target + 1).astype(np.int32)}
        at = {"k": 20, "temperature": 0.07}
        metrics = ("top1", "top1_best_k")
        scores = [_score("digits", "test", metric, float(right.mean()), 40, at) for metric in metrics]
        out.append((_text(folder, name, "knn", "digits", scores), arrays))
        ap = rng.random(10)
        queries = {"query": np.array([f"q{i}" for i in range(10)])}
        for difficulty in ("medium", "hard"):
            queries |= {f"{difficulty}_{key}": ap for key in ("ap", "p@1", "p@5", "p@10")}
        at = {"imsize": 512, "scales": "1", "crop": False}
        scores = [_score("rparis6k", "queries", f"{d}_mAP", float(ap.mean()), 10, at) for d in ("medium", "hard")]
        out.append((_text(folder, name, "retrieval", "rparis6k", scores), queries))
    return out


def prototypes(folder: Path) -> tuple[bytes, Mapping[str, np.ndarray]]:
    """The same of a prototypes result, with all arrays that figures and galleries show."""
    rng = np.random.default_rng(0)
    at: dict[str, object] = {"reading": "leader", "branch": "teacher"}
    scores = [
        _score("digits", "weights", metric, value, 32, at | {"threshold": t})
        for t in (0.8, 0.9)
        for metric, value in (("unique_count", 20.0), ("largest_count", 5.0))
    ]
    names = ("kappa", "purity", "cosine_to_images", "spread", "expected_spread")
    arrays = {name: rng.random(32).astype(np.float32) for name in names}
    arrays |= {
        "counts": np.arange(32, dtype=np.int32),
        "projection": rng.random((32, 2)).astype(np.float32),
        "projection_share": np.array([0.5, 0.2], np.float32),
        "void": np.arange(32) < 3,
        "sizes_leader_0.9": np.array([5, 3, 1, 1], np.int32),
        "gallery_kind": np.array(["largest", "sharpest"]),
        "gallery_prototype": np.array([31, 2]),
        "gallery_cosine": rng.random((2, 3)).astype(np.float32),
        "gallery_images": rng.integers(0, 255, (2, 3, 8, 8, 3), dtype=np.uint8),
    }
    return _text(folder, "one", "prototypes", "digits", scores), arrays


def _score(dataset: str, split: str, metric: str, value: float, n: int, at: dict[str, object]) -> Score:
    return Score(dataset=dataset, split=split, metric=metric, value=value, n=n, at=at)


def _text(folder: Path, name: str, protocol: str, dataset: str, scores: list[Score]) -> bytes:
    result = Result(
        checkpoint={"name": name, "digest": name, "family": "dino", "branch": "teacher", "arch": {"name": "x"}},
        protocol=protocol,
        version=1,
        settings={
            "k": [20],
            "temperature": [0.07],
            "pooling": "cls",
            "preset": "dino",
            "whiten": None,
            "threshold": 0.9,
        },
        data=ResultData(name=dataset, fingerprint="f" * 64),
        preprocessing=Preprocessing(precision="fp32", position="dino", views={"eval": PixelView(text="resize 256")}),
        origin_proof=OriginProof.LAYOUT,
        deviations=(),
        notes=(),
        scores=tuple(scores),
        seed=0,
        request=name * 20,
        made={},
    )
    path = folder / "made" / "x.json"
    results.write(path, result, {})
    return path.read_bytes()
