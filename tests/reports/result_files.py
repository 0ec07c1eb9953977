"""Results as `evaltk run` writes them, made by hand: what the tests of tables share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evaltk import results
from evaltk.types import OriginProof, PixelView, Preprocessing, Result, ResultData, Score

EVAL = PixelView(
    text="resize 256 bicubic (Pillow), centre crop 224, RGB/255, mean 0.485 0.456 0.406, std 0.229 0.224 0.225",
    resize=256,
    crop=224,
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
LOOKS = Preprocessing(precision="fp32", position="dino", views={"eval": EVAL})
BF16 = replace(LOOKS, precision="bf16")
SMALL, BASE = "vit_small_patch16_224", "vit_base_patch16_224"
K = [5, 10, 20, 50, 100, 200]


def made(
    name: str,
    protocol: str,
    dataset: str,
    scores: list[Score],
    *,
    family: str = "dino",
    arch: str = SMALL,
    branch: str = "teacher",
    epoch: int | None = None,
    settings: dict[str, Any] | None = None,
    request: str = "",
    **given: Any,
) -> Result:
    """A result of any protocol, with all that a run's own have; of a full training checkpoint unless told otherwise."""
    checkpoint = {
        "name": name,
        "digest": name,
        "family": family,
        "branch": branch,
        "arch": {"name": arch, "registers": 0},
        "epoch": epoch,
    }
    return Result(
        checkpoint=checkpoint,
        protocol=protocol,
        version=given.get("version", 1),
        settings=settings or {},
        data=ResultData(name=dataset, fingerprint="f" * 64),
        preprocessing=given.get("preprocessing", LOOKS),
        origin_proof=given.get("origin_proof", OriginProof.LAYOUT),
        deviations=given.get("deviations", ()),
        notes=given.get("notes", ()),
        scores=tuple(scores),
        seed=given.get("seed", 0),
        request=request or f"{name}-{protocol}-{dataset}".encode().hex()[:64],
        made={},
    )


def knn(
    name: str = "dino_vits16",
    value: float = 0.7450,
    *,
    n: int = 50_000,
    dataset: str = "imagenet",
    interval: tuple[float, float] | None = None,
    temperature: float = 0.07,
    settings: dict[str, Any] | None = None,
    **given: Any,
) -> Result:
    """A k-NN result with its best k, 20."""
    at = {"k": 20, "temperature": temperature}
    around = (value - 0.004, value + 0.004) if interval is None else interval
    base = {"dataset": dataset, "split": "val", "value": value, "n": n, "interval": around}
    scores = [Score(metric="top1", at=at, **base), Score(metric="top1_best_k", at=at, **base)]  # type: ignore[arg-type]
    told = {"k": K, "temperature": [0.07], "choose": 5000, "backend": "torch"} | (settings or {})
    return made(name, "knn", dataset, scores, settings=told, **given)


def retrieval(name: str = "dino_vits16", values: tuple[float, float] = (0.63, 0.35), **given: Any) -> Result:
    """A retrieval result on Paris, as by the preset dino."""
    at = {"imsize": 512, "scales": "1 0.7071 0.5", "crop": False} | given.pop("at", {})
    scores = [
        Score(
            dataset="rparis6k", split="queries", metric=f"{d}_mAP", value=v, n=70, at=at, interval=(v - 0.02, v + 0.02)
        )
        for d, v in zip(("medium", "hard"), values, strict=True)
    ]
    settings = {"pooling": "cls", "preset": "dino", "whiten": None, "distractors": None} | given.pop("settings", {})
    return made(name, "retrieval", "rparis6k", scores, settings=settings, **given)


def vos(name: str = "dino_vits16", values: tuple[float, ...] = (0.620, 0.604, 0.636), **given: Any) -> Result:
    """A result on DAVIS."""
    scores = [
        Score(dataset="davis2017", split="val", metric=m, value=v, n=61, interval=(v - 0.03, v + 0.03))
        for m, v in zip(("J&F", "J", "F"), values, strict=True)
    ]
    settings = {"size": 480, "previous": 7, "radius": 12, "topk": 5, "temperature": 0.1, "preset": "dino"}
    settings |= {"mean": None, "std": None, "drop_last": None} | given.pop("settings", {})
    return made(name, "vos", "davis2017", scores, settings=settings, **given)


def prototypes(name: str = "dino_vitb16_full", unique: int = 775, largest: int = 54_877, **given: Any) -> Result:
    """Counts of near-copies."""
    at = {"threshold": 0.9, "reading": "leader"}
    pairs = (("unique_at_0.9_count", unique), ("largest_at_0.9_count", largest))
    base = {"dataset": "digits", "split": "weights", "n": 65_536, "at": at}
    scores = [Score(metric=metric, value=float(value), **base) for metric, value in pairs]  # type: ignore[arg-type]
    return made(name, "prototypes", "digits", scores, **({"arch": BASE} | given))


def predicted(name: str, right: np.ndarray, *, target: np.ndarray | None = None, **given: Any) -> tuple[Result, dict]:
    """A k-NN result and its predictions, right where `right` [N] says so."""
    target = np.zeros(len(right), dtype=np.int64) if target is None else target
    result = knn(name, float(np.mean(right)), n=len(right), dataset="digits", **given)
    return result, {"target": target, "k20_t0.07": np.where(right, target, target + 1).astype(np.int32)}


def write(folder: Path, pairs: list[tuple[Result, dict]]) -> list[tuple[Path, Result]]:
    """Write results with their predictions; what `results.find` gives of them."""
    for result, arrays in pairs:
        name = str(result.checkpoint["name"])
        path = results.path_of(folder, name, result.protocol, result.data.name, result.request)
        results.write(path, result, arrays)
    return list(results.find(folder))
