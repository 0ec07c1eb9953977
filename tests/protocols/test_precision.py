"""Bins of precision by hand, and Figure 2 on a small net whose precisions are planted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from evaltk.bench import Bench, ImageOptions, Outcome
from evaltk.checkpoints.load import load_checkpoint
from evaltk.data import images
from evaltk.data.images import Dataset
from evaltk.errors import DataError, SettingsError
from evaltk.features.extraction import Extraction
from evaltk.models.backbone import build_backbone
from evaltk.types import HeadWeights
from protocols import precision
from protocols.precision import Settings, percentile_bins


def test_bins_by_hand() -> None:
    found = percentile_bins(np.arange(10.0), 5)
    assert found is not None
    np.testing.assert_allclose(found.edges, [0, 1.8, 3.6, 5.4, 7.2, 9])
    assert found.of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_value_on_an_edge_belongs_above_and_the_last_bin_is_closed() -> None:
    found = percentile_bins(np.array([1.0, 2.0, 3.0]), 2)
    assert found is not None
    assert found.edges.tolist() == [1, 2, 3]
    assert found.of.tolist() == [0, 1, 1]


def test_ties_stay_together_and_may_leave_a_bin_empty() -> None:
    found = percentile_bins(np.array([1.0] * 7 + [2.0, 3.0, 4.0]), 5)
    assert found is not None
    assert found.edges.tolist() == pytest.approx([1, 1, 1, 1, 2.2, 4])
    assert np.bincount(found.of, minlength=5).tolist() == [0, 0, 0, 8, 2]


@pytest.mark.parametrize("bins", [2, 5, 10])
def test_bins_are_the_definition(bins: int) -> None:
    values = np.random.default_rng(bins).integers(0, 40, 300).astype(float)
    found = percentile_bins(values, bins)
    assert found is not None
    edges = np.percentile(values, np.linspace(0, 100, bins + 1))
    for b in range(bins):
        inside = (values >= edges[b]) & ((values < edges[b + 1]) if b < bins - 1 else (values <= edges[b + 1]))
        np.testing.assert_array_equal(found.of == b, inside)


def test_equal_norms_have_no_percentiles() -> None:
    assert percentile_bins(14.28 * (1 + 1e-7 * np.arange(5)), 5) is None


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Images of class a are all but noise-free, those of b and c are each other's noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (3, 8, 8, 3)).astype(float)
    patterns[2] = patterns[1]
    splits = []
    for name, num in (("train", 150), ("test", 90)):
        labels = np.arange(num) % 3
        noise = np.where(labels == 0, 5, 60)[:, None, None, None] * rng.standard_normal((num, 8, 8, 3))
        pixels = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
        splits.append(images.from_arrays("toy", name, pixels, labels, ["a", "b", "c"]))
    return Dataset(name="toy", train=splits[0], test=splits[1])


@pytest.fixture(scope="module")
def bench(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Six prototypes: two sharp ones at class a, four broad ones at the others."""
    net = load_checkpoint("random:vit_patch4_dim24_depth1_heads2_img8")
    made = Bench(
        checkpoint=net,
        backbone=build_backbone(net),
        device="cpu",
        seed=0,
        cache=tmp_path_factory.mktemp("cache"),
        images=ImageOptions(),
        extraction=Extraction(),
    )
    x = torch.from_numpy(np.array(made.features(dataset.train, precision.NEED).x))
    mlp, bias = torch.eye(x.shape[1]), -x.mean(dim=0)
    y = torch.nn.functional.normalize(x + bias, dim=1)
    v = y[[0, 3, 1, 2, 4, 5]]
    g = torch.tensor([3.0, 2.5, 1.0, 0.9, 0.8, 0.7])[:, None]
    tensors = {"mlp.weight": mlp, "mlp.bias": bias, "prototypes.weight_v": v, "prototypes.weight_g": g}
    head = HeadWeights(kind="dino", tensors=tensors, center=torch.zeros(6), scoring="vmf")
    return dataclasses.replace(made, checkpoint=dataclasses.replace(net, head=head))


@pytest.fixture(scope="module")
def outcome(bench: Bench, dataset: Dataset) -> Outcome:
    return precision.run(bench, dataset, Settings(bins=3, k=(5, 10), permutations=999))


def test_sharp_prototypes_have_the_images_that_are_right(outcome: Outcome) -> None:
    first = {"temperature": 0.07, "centre": "without"}
    bins = [s for s in outcome.scores if s.metric == "top1_bin" and first.items() <= s.at.items()]
    assert [s.at["bin"] for s in bins] == sorted(s.at["bin"] for s in bins)
    assert sum(s.n for s in bins) == 90
    assert bins[-1].value > bins[0].value + 0.2
    for s in bins:
        assert s.interval is not None and s.interval[0] <= s.value <= s.interval[1]
    rho = next(s for s in outcome.scores if s.metric == "precision_rho")
    assert rho.value > 0.3 and float(str(rho.at["p_value"])) <= 0.01
    whole = outcome.scores[0]
    assert whole.metric == "top1_best_k" and whole.n == 90
    assert whole.value == pytest.approx(sum(s.value * s.n for s in bins) / 90)


def test_all_variants_are_told(outcome: Outcome) -> None:
    found = {(s.at["temperature"], s.at["centre"]) for s in outcome.scores if s.metric == "precision_rho"}
    assert found == {(t, c) for t in (0.07, 0.1) for c in ("without", "with")}
    kappa = outcome.predictions["kappa_t0.07_without"]
    np.testing.assert_allclose(kappa.max(), 3 / 0.07, rtol=1e-5)
    assert "formulation vmf: stated in the file" in outcome.notes


def test_equal_norms_are_said(bench: Bench, dataset: Dataset) -> None:
    head = bench.checkpoint.head
    assert head is not None
    equal = dataclasses.replace(head, tensors={**head.tensors, "prototypes.weight_g": torch.ones(6, 1)})
    flat = dataclasses.replace(bench, checkpoint=dataclasses.replace(bench.checkpoint, head=equal))
    found = precision.run(flat, dataset, Settings(k=(5,)))
    assert [s.metric for s in found.scores] == ["top1_best_k"]
    assert any("have the same norm (kappa 14.29 at tau 0.07)" in n for n in found.notes)


def test_fewer_images_than_bins(bench: Bench, dataset: Dataset) -> None:
    with pytest.raises(DataError, match="90 images"):
        precision.run(bench, dataset, Settings(bins=91, k=(5,)))


def test_k_beyond_the_bank(bench: Bench, dataset: Dataset) -> None:
    with pytest.raises(SettingsError, match="150"):
        precision.run(bench, dataset, Settings(k=(151,)))


@pytest.mark.parametrize("wrong", [{"bins": 1}, {"temperature": ()}, {"k": (0,)}, {"permutations": 0}])
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=f"--precision.{next(iter(wrong))}"):
        Settings(**wrong)


def test_the_flag_of_the_same_name_stays(tmp_path: Path) -> None:
    """`--precision bf16` is the run's, `--precision.bins` the protocol's."""
    import tyro

    from evaltk.cli import _flags

    argv = ["net.pth", "--protocols", "precision", "--data", "digits", "--precision", "bf16", "--precision.bins", "7"]
    plan = _flags.plan_of(tyro.cli(_flags.options_type(), args=[*argv, "--cache", str(tmp_path)]))
    assert plan.precision == "bf16"
    assert plan.protocols["precision"].bins == 7
