"""Copy detection, clustering and segmentation against the digits that the original code gives on the same inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from evaltk import cli, results
from evaltk.metrics import clustering, iou

GOLDEN = Path(__file__).parents[1] / "golden"
BLOCKS = ("original", "strong", "jpegqual/3", "jpegqual/20", "crops/10", "crops/50")


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}_expected.json").read_text())
    return found


def pictures(seed: int, count: int) -> list[np.ndarray]:
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        coarse = rng.integers(0, 256, (6, 8, 3))
        fine = rng.integers(-40, 41, (48, 64, 3))
        made.append(np.clip(np.repeat(np.repeat(coarse, 8, 0), 8, 1) + fine, 0, 255).astype(np.uint8))
    return made


@pytest.fixture(scope="module")
def copydays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 originals and copies of five strengths, PNG data in files called as Copydays calls them; 134 other images."""
    root = tmp_path_factory.mktemp("copydays")
    for name in (*BLOCKS, "distractors", "whitening"):
        (root / name).mkdir(parents=True)

    def save(name: str, pixels: np.ndarray) -> None:
        Image.fromarray(np.ascontiguousarray(pixels)).save(root / name, format="PNG")

    rng = np.random.default_rng(1)
    for i, x in enumerate(pictures(0, 26)):
        stem = f"2{i:03d}"
        save(f"original/{stem}00.jpg", x)
        if i % 2 == 0:
            save(f"strong/{stem}01.jpg", np.rot90(x))
        if i % 3 == 0:
            save(f"strong/{stem}02.jpg", 255 - x[:, ::-1])
        for block, strength in (("jpegqual/3", 200), ("jpegqual/20", 100)):
            noisy = np.clip(x + rng.normal(0, strength, x.shape), 0, 255)
            save(f"{block}/{stem}00.jpg", noisy.astype(np.uint8))
        save(f"crops/10/{stem}00.jpg", x[2:46, 3:61])
        save(f"crops/50/{stem}00.jpg", x[14:, 18:])
    for name, seed, count in (("distractors", 2, 14), ("whitening", 3, 120)):
        for i, x in enumerate(pictures(seed, count)):
            save(f"{name}/{i:03d}.png", x)
    return root


@pytest.mark.parametrize("whitened", [False, True])
def test_copy_detection_is_dinos(copydays: Path, whitened: bool) -> None:
    wanted = expected("copies")
    net = str(GOLDEN / "dino_p16_full_checkpoint.pth")
    argv = ["run", net, "--num-heads", "3", "--protocols", "copies", "--data", f"copydays={copydays}", "--quiet"]
    argv += ["--copies.imsize", "64", "--copies.distractors", str(copydays / "distractors")]
    argv += ["--copies.whiten", str(copydays / "whitening")] if whitened else []
    out = copydays / f"runs {whitened}"
    assert cli.main([*argv, "--out", str(out), "--cache", str(copydays / "cache")]) == 0
    ((path, result),) = results.find(out)
    arrays = results.read_predictions(path)
    for distractors in (False, True):
        end = "whitened" if whitened else ""
        kind = f"distractors_{end}".strip("_") if distractors else end or "plain"
        for block, number in wanted["blocks"].items():
            found = arrays[f"ap_{block}_with_distractors" if distractors else f"ap_{block}"]
            assert found.tolist() == pytest.approx(wanted["ap"][kind][block], abs=1e-12), (kind, block)
            metric = "copy_mAP_distractors" if distractors else "copy_mAP"
            (score,) = [s for s in result.scores if s.metric == metric and s.at["block"] == block]
            assert score.value == pytest.approx(np.mean(wanted["ap"][kind][block])) and score.n == number


@pytest.mark.parametrize("case", expected("clustering"))
def test_clustering_is_ibots(case: str) -> None:
    seed, classes, images = map(int, case.split()[:3])
    wanted, rng = expected("clustering")[case], np.random.default_rng(seed)
    label = rng.permutation(np.arange(images) % classes)
    right = rng.random(images) < float(case.split()[3])
    cluster = np.where(right, rng.permutation(classes)[label], rng.integers(0, classes, images))
    assert clustering.hungarian_accuracy(cluster, label)[0] == wanted["acc"]
    assert clustering.agreement(cluster, label, classes).nmi == pytest.approx(wanted["nmi"], rel=1e-12)
    assert adjusted_rand_score(label, cluster) == pytest.approx(wanted["ari"], rel=1e-12)


@pytest.mark.parametrize("case", expected("segmentation"))
def test_segmentation_is_mmsegmentations(case: str) -> None:
    seed, classes, zero = map(int, case.split())
    wanted, rng = expected("segmentation")[case], np.random.default_rng(seed)
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for _ in range(3):
        shape = rng.integers(20, 41, 2)
        label = rng.integers(0, classes - 1 + zero, shape).astype(np.uint8)  # the last class has no pixel
        others = rng.random(shape) < 0.6, rng.integers(0, max(1, classes - 2), shape)
        predicted = np.where(others[0], label.astype(np.int64) - zero, others[1])
        predicted[predicted < 0] = classes - 1 if seed % 2 else 0
        label[rng.random(shape) < 0.1] = 0 if zero else 255
        if zero:  # as the ade20k dataset reads its maps: 0 is void, classes begin with 1
            label = np.where(label == 0, iou.VOID, label - 1).astype(np.uint8)
        matrix += iou.confusion(label, predicted, classes)
    found = iou.overlap(matrix)
    np.testing.assert_allclose(found.iou, np.array(wanted["IoU"], dtype=float), rtol=1e-12)  # null: NaN
    assert found.miou == pytest.approx(wanted["mIoU"], rel=1e-12)
    assert found.pixel_accuracy == pytest.approx(wanted["aAcc"], rel=1e-12)
    assert found.mean_accuracy == pytest.approx(wanted["mAcc"], rel=1e-12)
