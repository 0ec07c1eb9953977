"""The protocol end to end on a small net with a planted void, through files, results and tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from evaltk import results
from evaltk.bench import Bench, ImageOptions, Outcome
from evaltk.checkpoints.load import load_checkpoint
from evaltk.data import images
from evaltk.data.images import Dataset
from evaltk.errors import CheckpointError, DataError, SettingsError
from evaltk.features.extraction import Extraction
from evaltk.models.backbone import build_backbone, build_head
from evaltk.types import Checkpoint, HeadWeights, OriginProof, Preprocessing, Result, ResultData, Score
from protocols import precision, prototypes
from reports import layouts
from reports.tables.build import build_tables

NUM_TRAIN, NUM_TEST, P, VOID = 120, 60, 8, 30
ARCH = "random:vit_patch4_dim24_depth1_heads2_img8"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Three classes of noisy 8 x 8 images."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (3, 8, 8, 3))
    splits = []
    for name, num in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        labels = np.arange(num) % 3
        noisy = np.clip(patterns[labels] + rng.normal(0, 60, (num, 8, 8, 3)), 0, 255).astype(np.uint8)
        splits.append(images.from_arrays("toy", name, noisy, labels, ["a", "b", "c"]))
    return Dataset(name="toy", train=splits[0], test=splits[1])


def bench_of(checkpoint: Checkpoint, cache: Path) -> Bench:
    return Bench(
        checkpoint=checkpoint,
        backbone=build_backbone(checkpoint),
        device="cpu",
        seed=0,
        cache=cache,
        images=ImageOptions(),
        extraction=Extraction(),
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Checkpoint:
    """A file in DINO's layout: 20 prototypes at images of the training split, gains that differ, and a void of 30."""
    folder = tmp_path_factory.mktemp("checkpoint")
    net = load_checkpoint(ARCH)
    bench = bench_of(net, folder)
    need = prototypes.NEED
    x = torch.from_numpy(np.array(bench.features(dataset.train, need).x))
    draw = torch.Generator().manual_seed(0)
    mlp = torch.randn(P, x.shape[1], generator=draw)
    mlp /= ((x - x.mean(dim=0)) @ mlp.T).std()  # so that images differ as much whatever weights the net has
    bias = 3 * torch.randn(P, generator=draw) - mlp @ x.mean(dim=0)
    y = torch.nn.functional.normalize(x @ mlp.T + bias, dim=1)
    used = y[:20] * (1 + torch.rand(20, 1, generator=draw))
    v = torch.cat([used, -y.mean(dim=0).expand(VOID, P)])
    head = {"mlp.weight": mlp, "mlp.bias": bias, "last_layer.weight_v": v, "last_layer.weight_g": torch.ones(50, 1)}
    head["last_layer.weight_g"][:20, 0] = torch.linspace(0.5, 1.5, 20)
    teacher = {f"backbone.{k}": t for k, t in net.weights.items()} | {f"head.{k}": t for k, t in head.items()}
    student = {f"module.{k}": t.clone() for k, t in teacher.items()}
    student["module.head.last_layer.weight_v"] = torch.randn(50, P, generator=draw)
    tree = {"teacher": teacher, "student": student, "epoch": 3, "dino_loss": {"center": torch.rand(1, 50)}}
    torch.save(tree, folder / "planted.pth")
    said = {"num_heads": 2, "norm_eps": net.arch.norm_eps, "mean": net.mean, "std": net.std}
    return load_checkpoint(folder / "planted.pth", **said)


@pytest.fixture(scope="module")
def outcome(checkpoint: Checkpoint, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    bench = bench_of(checkpoint, tmp_path_factory.mktemp("cache"))
    return prototypes.run(bench, dataset, prototypes.Settings(min_images=2, gallery=3))


def value(outcome: Outcome, metric: str, **at: object) -> float:
    found = [s for s in outcome.scores if s.metric == metric and all(s.at.get(k) == v for k, v in at.items())]
    assert found, f"no {metric} at {at}"
    return found[0].value


def test_planted_void_is_named(outcome: Outcome) -> None:
    (words,) = [n for n in outcome.notes if n.startswith("void set: ")]
    assert words.startswith("void set: 60.0 % of the prototypes (30 of 50) are duplicates, none of 120 images")
    assert "they point away from the data (cosine -1.0000 with the data mean; 0.0 % of random directions" in words
    listed = next(n for n in outcome.notes if n.startswith("sets of at least 1 % of the prototypes, by size: "))
    assert "30 (unused, cosine -1.00)" in listed
    assert value(outcome, "void_cosine", set="void") == pytest.approx(-1, abs=1e-4)
    assert value(outcome, "void_random_percentile") < 1e-6 and value(outcome, "large_unused_share") >= 0.6
    assert outcome.predictions["set_size"][0] == VOID and outcome.predictions["set_images"][0] == 0
    assert value(outcome, "void_share") == pytest.approx(0.6)
    assert outcome.predictions["void"].sum() == VOID


def test_counts_and_arrays_fit_together(outcome: Outcome) -> None:
    arrays = outcome.predictions
    assert value(outcome, "largest_count", threshold=0.99, reading="leader") == VOID
    assert value(outcome, "largest_count_components", threshold=0.99) == VOID
    assert value(outcome, "unique_count_student", threshold=0.99) == 50
    assert arrays["counts"].sum() == NUM_TRAIN
    assert value(outcome, "used_count", centre="without") == (arrays["counts"] > 0).sum()
    assert value(outcome, "used_count") + value(outcome, "dead_count") == 50
    assert 1 <= value(outcome, "perplexity_count") <= 50
    assert 1 / 3 <= value(outcome, "purity") <= 1
    sizes = arrays["sizes_leader_0.9"]
    assert sizes.sum() == 50 and len(sizes) == value(outcome, "unique_count", threshold=0.9)
    assert {(s.at["temperature"], s.at["centre"]) for s in outcome.scores if s.metric == "nmi"} == {
        (t, c) for t in (0.07, 0.1) for c in ("without", "with")
    }
    assert any("formulation linear: not stated in the file" in n for n in outcome.notes)


def test_every_score_is_a_finite_number_and_fractions_are_fractions(outcome: Outcome) -> None:
    for score in outcome.scores:
        assert np.isfinite(score.value), score
        if score.metric.endswith("_share") or score.metric in ("purity", "nmi", "unique_share_by_distance"):
            assert 0 <= score.value <= 1, score


def test_gallery_shows_the_nearest_images(outcome: Outcome, dataset: Dataset) -> None:
    arrays = outcome.predictions
    assert set(arrays["gallery_kind"]) == {"largest", "sharpest", "broadest", "purest"}
    assert arrays["gallery_images"].shape == (len(arrays["gallery_kind"]), 3, 64, 64, 3)
    assert dataset.train.pixels is not None
    shown = arrays["gallery_images"][0, 0, ::8, ::8]
    assert any(np.array_equal(shown, image) for image in dataset.train.pixels)
    assert (np.diff(arrays["gallery_cosine"], axis=1) <= 0).all()


def test_assignment_is_the_heads_argmax(
    outcome: Outcome, checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    need = prototypes.NEED
    x = bench_of(checkpoint, tmp_path).features(dataset.train, need).x
    head = build_head(checkpoint)
    wanted = head.logits(head.embed(torch.from_numpy(np.array(x)))).argmax(dim=1)
    np.testing.assert_array_equal(outcome.predictions["assigned"], wanted.numpy())


def test_formulation_changes_the_use(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    asked = prototypes.Settings(formulation="vmf", other_branch=False, permutations=0, gallery=0, readings=("leader",))
    found = prototypes.run(bench_of(checkpoint, tmp_path), dataset, asked)
    assert {s.at.get("formulation") for s in found.scores if s.metric == "nmi"} == {"vmf"}
    assert "formulation vmf: set by the user" in found.notes
    assert not [s for s in found.scores if s.metric.endswith("_student")]
    assert value(found, "void_share") == pytest.approx(0.6)


def test_negative_gain_turns_a_prototype_about(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    assert checkpoint.head is not None
    tensors = dict(checkpoint.head.tensors)
    tensors["prototypes.weight_g"] = tensors["prototypes.weight_g"].clone()
    tensors["prototypes.weight_g"][20:] *= -1
    turned = dataclasses.replace(checkpoint, head=HeadWeights(kind="dino", tensors=tensors))
    asked = prototypes.Settings(other_branch=False, permutations=0, gallery=0)
    found = prototypes.run(bench_of(turned, tmp_path), dataset, asked)
    assert any(n.startswith("30 prototypes have a negative gain") for n in found.notes)
    assert not any(n.startswith("void set") for n in found.notes)  # the block now points towards the data


def test_a_file_without_a_head_names_the_public_file() -> None:
    net = dataclasses.replace(load_checkpoint(ARCH), family="dino")
    small = dataclasses.replace(net, arch=dataclasses.replace(net.arch, name="vit_small_patch16_224"))
    for module in (prototypes, precision):
        with pytest.raises(CheckpointError, match="dino_deitsmall16_pretrain_full_checkpoint"):
            module.check_checkpoint(small)


def test_zero_prototype_is_named(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    assert checkpoint.head is not None
    tensors = dict(checkpoint.head.tensors)
    tensors["prototypes.weight_g"] = tensors["prototypes.weight_g"].clone()
    tensors["prototypes.weight_g"][7] = 0
    bad = dataclasses.replace(checkpoint, head=HeadWeights(kind="dino", tensors=tensors))
    with pytest.raises(DataError, match=r"7 \(zero\)"):
        prototypes.run(bench_of(bad, tmp_path), dataset, prototypes.Settings())


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.0},
        {"thresholds": (0.5, -1.0)},
        {"temperature": (0.0,)},
        {"distance": 0.0},
        {"gallery": -1},
        {"void_cosine": 0.1},
        {"void_share": 1.5},
    ],
)
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=f"--prototypes.{next(iter(wrong)).replace('_', '-')}"):
        prototypes.Settings(**wrong)


def result_of(outcome: Outcome, protocol: str) -> Result:
    arch = {"name": "vit_base_patch16_224"}
    scores = tuple(dataclasses.replace(s, dataset="imagenet") for s in outcome.scores)
    return Result(
        checkpoint={"name": "planted", "family": "dino", "branch": "teacher", "arch": arch},
        protocol=protocol,
        version=1,
        settings={"threshold": 0.9},
        data=ResultData(name="imagenet", fingerprint="0" * 64),
        preprocessing=Preprocessing(precision="fp32", position="dino"),
        origin_proof=OriginProof.LAYOUT,
        notes=outcome.notes,
        scores=scores,
        seed=0,
        request="a" * 64,
        made={},
    )


def test_tables(outcome: Outcome, tmp_path: Path) -> None:
    result = result_of(outcome, "prototypes")
    path = results.path_of(tmp_path, "planted", "prototypes", "imagenet", result.request)
    results.write(path, result, outcome.predictions)
    (_, read) = next(iter(results.find(tmp_path)))
    (table,) = build_tables(layouts.load("paper/table4"), [read])
    unique, _, largest, _ = dict(table.rows)["ViT-B/16"]
    assert (unique.published, largest.published) == (775, 54877)
    assert largest.value == VOID
    (own,) = build_tables(layouts.load("prototypes"), [read])
    assert own.columns[0] == "threshold=0.5"
    cells = dict(zip(own.columns, own.rows[0][1], strict=True))
    assert cells["void (%)"].value == pytest.approx(0.6)
    assert any("cosine of at most -0.9 with the data mean" in note for note in own.legend)


def test_scores_are_the_same_for_small_blocks(
    outcome: Outcome, checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaltk.prototypes import duplicates

    monkeypatch.setattr(duplicates, "HEAD", 7)
    monkeypatch.setattr(duplicates, "CHUNK", 11)
    again = prototypes.run(bench_of(checkpoint, tmp_path), dataset, prototypes.Settings(min_images=2, gallery=3))
    for a, b in zip(outcome.scores, again.scores, strict=True):
        assert isinstance(a, Score) and a.metric == b.metric
        assert a.value == pytest.approx(b.value, abs=1e-6)


def test_what_holds_for_all_images_names_no_threshold(outcome: Outcome) -> None:
    """Settings that a score is measured at are its own: those of later scores must not reach into earlier ones."""
    by_metric = {score.metric: score.at for score in outcome.scores}
    assert "min_images" in by_metric["resultant_length"] and "min_images" not in by_metric["cosine_to_images"]
