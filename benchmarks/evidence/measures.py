"""What is measured of a cell: its log, and through the project's own protocols its checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.suite import Cell
from evaltk import datasets, neighbours, vmf
from evaltk.checkpoints.load import load_checkpoint
from evaltk.prototypes.head import head_of
from evaltk.running import runner
from evaltk.types import Result
from pretrain import centering
from pretrain.recipe import Recipe
from protocols import fewshot, knn, precision, prototypes

K = 20  # neighbours of the k-NN that cells are compared by: DINO's default
BINS = 4
KEPT = re.compile(r"checkpoint-epoch(\d+)\.pth")
PROTOTYPE_SCORES = (
    "unique_share", "largest_share", "void_cosine", "void_share", "void_images_count", "void_random_percentile",
    "large_unused_share", "used_share", "perplexity_count", "purity",
)  # fmt: skip


def of_log(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The course of a training: [step, loss] and the extremes of kappa and of gradient norms.

    Not finite: None, since JSON has no such numbers.
    """
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    kappas = [line["kappa_max"] for line in lines if "kappa_max" in line]
    norms = [line["grad_norm_max"] for line in lines if "grad_norm_max" in line]
    alarms = [alarm.partition(":")[0] for line in lines for alarm in line.get("alarms", [])]
    return {
        "steps": max((line["step"] for line in lines), default=0),
        "loss": [[step, _finite(value)] for step, value in losses[:: max(1, len(losses) // 20)]],
        "last_loss": _finite(losses[-1][1]) if losses else None,
        "kappa_max": _finite(max(kappas, default=math.nan)),
        "grad_norm_max": _finite(max(norms, default=math.nan)),
        "alarms": sorted(set(alarms)),
    }


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def of_run(cell: Cell, recipe: Recipe, folder: Path, *, device: str) -> dict[str, Any]:
    """The measures that the cell names, of its last checkpoint; of prototypes also the course over kept ones."""
    found: dict[str, Any] = {}
    tau = recipe.method.teacher_temp_end
    last = folder / "checkpoint.pth"
    if "prototypes" in cell.measures:
        kept = sorted(path for path in folder.iterdir() if KEPT.fullmatch(path.name))
        settings = prototypes.Settings(
            thresholds=(), readings=("leader",), other_branch=False, permutations=0, gallery=0, centre=False,
            temperature=(tau,),
        )  # fmt: skip
        course = [_measure(cell, path, {"prototypes": settings}, folder, device)["prototypes"] for path in kept]
        steps_per_epoch = of_epoch(recipe, course)
        found["course"] = [
            {"step": int(str(result.checkpoint["epoch"])) * steps_per_epoch} | _prototype_scores(result)
            for result in course
        ]
    asked: dict[str, Any] = {}
    if "knn" in cell.measures:
        asked["knn"] = knn.Settings(k=(K,), choose=0)
    if "fewshot" in cell.measures:
        asked["fewshot"] = fewshot.Settings()
    if "precision" in cell.measures:
        asked["precision"] = precision.Settings(bins=BINS, temperature=(tau,), centre=False, k=(K,), permutations=999)
    results = _measure(cell, last, asked, folder, device) if asked else {}
    if "knn" in results:
        found["knn"] = next(s.value for s in results["knn"].scores if s.metric == "top1" and s.at["k"] == K)
    if "fewshot" in results:
        scores = [s for s in results["fewshot"].scores if s.metric == "top1_mean"]
        found["fewshot"] = {str(s.at["shots"]): s.value for s in scores}
    if "precision" in results:
        scores = [s for s in results["precision"].scores if s.metric == "top1_bin"]
        found["precision"] = [[s.at["bin"], s.value, s.n] for s in scores]
    if "centre" in cell.measures:
        found["centre"] = of_centre(last, recipe, folder, device)
    return found


def of_epoch(recipe: Recipe, course: Sequence[Result]) -> int:
    """Steps of an epoch."""
    sizes = [size for result in course for name, size in result.data.sizes.items() if name == "train"]
    return sizes[0] // recipe.optim.batch if sizes else 0


def _measure(cell: Cell, checkpoint: Path, settings: Mapping[str, Any], folder: Path, device: str) -> dict[str, Result]:
    """{protocol: result} of a checkpoint on the data it was trained on."""
    data = next(word for word in reversed(cell.overrides) if word.startswith("data.source="))
    plan = runner.Plan(
        checkpoints=(str(checkpoint),),
        protocols=settings,
        data=(data.partition("=")[2].strip('"'),),
        out=folder / "measured" / "results",
        cache=folder / "measured" / "cache",
        device=device,
    )
    found: dict[str, Result] = {}
    runner.run(plan, report=lambda job, result, skipped: found.update({job.protocol: result}))
    return found


def _prototype_scores(result: Result) -> dict[str, float]:
    first: dict[str, float] = {}
    for score in result.scores:
        if score.metric in PROTOTYPE_SCORES:
            first.setdefault(score.metric, round(score.value, 6))
    return first


@torch.inference_mode()
def of_centre(path: Path, recipe: Recipe, folder: Path, device: str) -> dict[str, float | None]:
    """How much of log C_p the teacher's centre takes away again (Section 3.4), for scores that have it.

    With b_k = log C_p(kappa_k), the centre of the cell's kind is computed over the training images from the teacher's
    scores with b and without it. `eaten`: slope over the prototypes of the difference on b, 1 where the centre takes
    log C_p away entirely, 0 where it does not see it. `changed`: share of images whose highest centred score is that
    of another prototype without b. `constant_std`: of b_k over the prototypes, in nats.
    """
    m = recipe.method
    checkpoint = load_checkpoint(path)
    head = head_of(checkpoint, device)
    plan = runner.Plan(checkpoints=(str(path),), protocols={}, data=(), out=folder, cache=folder / "measured" / "cache")
    bench = runner.bench_with(plan, checkpoint, device)
    split = datasets.load(recipe.data.source).train
    bench.prepare(split, (prototypes.NEED,))
    x = bench.features(split, prototypes.NEED).x
    y = head.embed(neighbours.rows(x, 0, len(x)).to(head.prototypes.device)).double()
    w = head.prototypes.double()
    b = vmf.log_normalizer_shifted(torch.linalg.vector_norm(w, dim=1) / m.teacher_temp_end, w.shape[1])
    if m.scoring != "vmf" or float(b.std()) < 1e-6:
        return {"eaten": None, "changed": None, "constant_std": None}
    bare = y @ w.T / m.teacher_temp_end
    centres = [centering.batch_center(centering.accumulate(z, kind=m.centering)) for z in (bare + b, bare)]
    with_b, without = (bare + b - centres[0]).argmax(dim=1), (bare - centres[1]).argmax(dim=1)
    difference, spread = (centres[0] - centres[1]).cpu().numpy(), b.cpu().numpy()
    return {
        "eaten": _slope(difference, spread),
        "changed": float((with_b != without).double().mean()),
        "constant_std": float(f"{spread.std():.6g}"),
    }


def _slope(y: np.ndarray, x: np.ndarray) -> float:
    return float(f"{((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum():.6g}")
