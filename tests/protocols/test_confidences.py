"""Confidences of k-NN, linear, few-shot and transfer by the real command: their definitions, and calibration errors."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_inputs import DEIT, one_colour_per_class

import evaltk
from evaltk import checksums, cli, logistic, results
from evaltk.types import Recipe, Result
from protocols.linear import training
from reports.figures import collect

Found = dict[str, tuple[Result, dict[str, np.ndarray]]]
HEADLINES = {  # a calibration error: the accuracy at the same settings
    "knn": {"ece_best_k": "top1_best_k", "ece_chosen_k": "top1_chosen_k"},
    "linear": {f"{c}_ece{end}": f"{c}_top1{end}" for c in "CD" for end in ("", "_best_epoch")},
    "fewshot": {"ece": "top1"},
    "transfer": {"ece": "top1"},
}


def command(root: Path, out: str, *argv: str) -> Found:
    data = ["--data", f"x:imagefolder={root / 'data'}", "--out", str(root / out), "--cache", str(root / "cache")]
    argv = ("run", DEIT, "--num-heads", "3", *data, "--quiet", "--knn.k", "3", "5", *argv)
    argv = (*argv, "--linear.fast", "--linear.epochs", "2", "--linear.holdout", "0.2", "--linear.lr", "0.01", "0.5")
    assert cli.main([*argv, "--fewshot.percent", "0", "--fewshot.splits", "2", "--transfer.strengths", "3"]) == 0
    return {result.protocol: (result, results.read_predictions(path)) for path, result in results.find(root / out)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_colour_per_class(tmp_path_factory.mktemp("confidences"), train=8, test=6, noise=250)


@pytest.fixture(scope="module")
def found(root: Path) -> Found:
    return command(root, "runs", "--protocols", *HEADLINES)


def slow_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The formula in plain loops: fifteen bins, (0, 1/15] to (14/15, 1]."""
    total = 0.0
    for b in range(15):
        inside = [i for i, c in enumerate(confidence.tolist()) if b / 15 < c <= (b + 1) / 15]
        if inside:
            gap = sum(float(confidence[i]) for i in inside) - sum(bool(right[i]) for i in inside)
            total += abs(gap) / len(right)
    return total


def array_of(protocol: str, metric: str, at: dict[str, Any]) -> str:
    if protocol == "knn":
        return f"k{at['k']}_t{at['temperature']!r}"
    if protocol == "linear":
        return f"{metric[0]}_{'best' if 'best' in metric else 'last'}"
    return f"shots{at['shots']}_split{at['split']}_penalty{at['penalty']}" if protocol == "fewshot" else "predicted"


@pytest.mark.parametrize("protocol", HEADLINES)
def test_each_calibration_error_is_that_of_the_kept_confidences(found: Found, protocol: str) -> None:
    result, arrays = found[protocol]
    seen = 0
    for score in result.scores:
        if score.metric not in HEADLINES[protocol]:
            continue
        at = dict(score.at)
        assert at.pop("bins") == 15 and score.split == "test"
        (accuracy,) = [s for s in result.scores if s.metric == HEADLINES[protocol][score.metric] and dict(s.at) == at]
        name = array_of(protocol, score.metric, at)
        right = arrays[name] == arrays["target"]
        assert right.mean() == pytest.approx(accuracy.value) and score.n == accuracy.n == len(right)
        if protocol == "fewshot" and at["split"] != 1:
            assert f"{name}_confidence" not in arrays
            continue
        confidence = arrays[f"{name}_confidence"]
        assert confidence.dtype == np.float32 and confidence.min() > 0 and confidence.max() <= 1
        assert score.value == pytest.approx(slow_error(confidence, right), abs=1e-12)
        seen += 1
    assert seen == {"knn": 2, "linear": 4, "fewshot": 3, "transfer": 1}[protocol]


def test_torchmetrics_agrees(found: Found) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    _, arrays = found["transfer"]
    confidence, right = (torch.from_numpy(arrays[f"predicted{end}"]) for end in ("_confidence", ""))
    p = torch.stack([confidence, 1 - confidence], dim=1)  # of two classes: the predicted one and the others
    target = (right != torch.from_numpy(arrays["target"])).long()
    # A confidence below a half would make the second class the predicted one.
    kept = confidence > 0.5
    wanted = functional.multiclass_calibration_error(p[kept], target[kept], num_classes=2, n_bins=15, norm="l1")
    assert slow_error(confidence[kept].numpy(), (target[kept] == 0).numpy()) == pytest.approx(float(wanted), abs=1e-6)


def test_a_knn_confidence_is_the_share_of_the_votes(found: Found, root: Path) -> None:
    result, arrays = found["knn"]
    net = evaltk.load_checkpoint(DEIT, num_heads=3)
    train, test = (evaltk.extract(net, f"x:imagefolder={root / 'data'}", part=part) for part in ("train", "test"))
    bank, queries = (f.x.astype(np.float64) / np.linalg.norm(f.x, axis=1, keepdims=True) for f in (train, test))
    for score in result.scores:
        if score.metric in HEADLINES["knn"]:
            shares = []
            for query in queries:
                votes = dict.fromkeys(range(6), 0.0)
                for i in sorted(range(len(bank)), key=lambda i: -float(bank[i] @ query))[: score.at["k"]]:
                    votes[int(train.y[i])] += float(np.exp(bank[i] @ query / 0.07))
                shares.append(max(votes.values()) / sum(votes.values()))
            np.testing.assert_allclose(arrays[f"k{score.at['k']}_t0.07_confidence"], shares, rtol=1e-4)


def test_a_logistic_confidence_is_a_softmax_probability() -> None:
    common = {"l2": 1.0, "objective": 0.0, "gradient_norm": 0.0, "relative_gradient": 0.0, "iterations": 1}
    model = logistic.LogisticModel(weight=torch.eye(3), bias=None, converged=True, **common)
    x = torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0], [200.0, -200.0, 0.0]])
    wanted = [np.exp(2) / (np.exp(2) + np.exp(1) + np.exp(-1)), 1 / 3, 1.0]
    np.testing.assert_allclose(model.confidence(x).numpy(), wanted, rtol=1e-6)
    assert model.confidence(torch.zeros(0, 3)).shape == (0,) and model.confidence(x).dtype == torch.float32


def test_a_training_cached_without_confidences(found: Found, root: Path) -> None:
    (stored,) = (root / "cache").rglob("trained.npz")
    with np.load(stored) as arrays:
        kept = {name: arrays[name] for name in arrays if name not in training.LATER}
        assert len(arrays.files) == len(kept) + 2
    np.savez_compressed(stored, **kept)
    (stored.parent / checksums.LISTED).unlink()
    checksums.list_folder(stored.parent)
    result, arrays = command(root, "older", "--protocols", "linear")["linear"]
    new, _ = found["linear"]
    assert result.scores == tuple(s for s in new.scores if "ece" not in s.metric)
    assert any("cached without confidences" in note for note in result.notes)
    assert not [name for name in arrays if name.endswith("confidence")]


def test_a_training_begun_without_confidences_goes_on() -> None:
    sweep = training.Sweep(recipes=(Recipe(),), lrs=(0.1,), num_classes=2, epochs=2, batch=4, seed=0)
    source: Any = SimpleNamespace(skipped=frozenset())
    begun, later = (training._begin(sweep, source, [3], 5, "cpu") for _ in range(2))
    begun.epoch = 1
    tree = begun.tree()
    del tree["best"]["confidence"]
    later.take(tree)
    assert later.epoch == 1 and later.best["confidence"].isnan().all()


def test_tables_and_figures(found: Found, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["--runs", str(root / "runs")]
    assert cli.main(["classes", *runs, "--json", "--quiet"]) == 0
    judged = json.loads(capsys.readouterr().out)
    for protocol, least, most in (("knn", 1, 1), ("linear", 2, 4), ("fewshot", 3, 3), ("transfer", 1, 1)):
        mine = [one["ece"] for one in judged if f", {protocol} on" in one["title"]]
        scores = [s.value for s in found[protocol][0].scores if s.metric in HEADLINES[protocol]]
        assert least <= len(mine) <= most and all(any(e == pytest.approx(s) for s in scores) for e in mine)
    assert cli.main(["table", *runs, "--layout", "linear", "--format", "md", "--quiet"]) == 0
    assert "ECE, Lin.[C]" in capsys.readouterr().out
    drawn = {one.name: one.title for one in collect.of_analyses(results.find(root / "runs"))}
    assert drawn.keys() == {f"reliability-{protocol}-x" for protocol in HEADLINES}
    assert drawn["reliability-knn-x"] == "reliability of k-NN on x"
