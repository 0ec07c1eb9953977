"""Copy detection by the real command, against descriptors and average precision written from the formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_inputs import DEIT

import evaltk
from evaltk import cli, datasets, results
from evaltk.errors import DataError
from evaltk.types import Result
from protocols import copies


@pytest.fixture(scope="module")
def copydays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight originals of noise, five strong copies, a crop and a JPEG of each, and distractors."""
    root, rng = tmp_path_factory.mktemp("copydays"), np.random.default_rng(0)
    for name in ("original", "strong", "crops/50", "jpegqual/3", "other"):
        (root / name).mkdir(parents=True)
    for i in range(8):
        small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        image = small.resize((40, 30), Image.Resampling.BICUBIC)
        image.save(root / "original" / f"2{i:03d}00.jpg", quality=95)
        image.crop((8, 6, 36, 27)).save(root / "crops" / "50" / f"2{i:03d}00.jpg")
        image.save(root / "jpegqual" / "3" / f"2{i:03d}00.jpg", quality=3)
        if i < 5:
            image.rotate(90, expand=True).save(root / "strong" / f"2{i:03d}01.jpg")
        Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(root / "other" / f"{i}.jpg")
    return root


def run(copydays: Path, *argv: str) -> tuple[Result, dict[str, np.ndarray]]:
    out = copydays / "runs"
    data = ["--data", f"copydays={copydays}", "--out", str(out), "--cache", str(copydays / "cache"), "--quiet"]
    assert cli.main(["run", DEIT, "--num-heads", "3", "--protocols", "copies", *data, *argv]) == 0
    path, result = max(results.find(out), key=lambda found: found[0].stat().st_mtime_ns)
    return result, results.read_predictions(path)


def described(copydays: Path, names: list[str]) -> np.ndarray:
    """[N, 2 D]: class token, and (mean x^4)^(1/4) of the patches, of images resized to 16 x 16."""
    net = evaltk.load_checkpoint(DEIT, num_heads=3)
    backbone, rows = evaltk.build_backbone(net), []
    for name in names:
        pixels = np.asarray(Image.open(copydays / name).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC))
        x = (pixels / 255 - np.array(net.mean)) / np.array(net.std)
        (tokens,) = backbone.tokens(torch.tensor(x, dtype=torch.float32).permute(2, 0, 1)[None])
        gem = np.maximum(tokens.patches[0].double().numpy(), 1e-6) ** 4
        rows.append(np.concatenate([tokens.cls[0].double().numpy(), gem.mean(0) ** 0.25]))
    return np.stack(rows)


def slow_ap(similarity: np.ndarray, right: int, depth: int) -> float:
    rank = int((similarity > similarity[right]).sum())
    before = 1.0 if rank == 0 else 0.0  # precision just before the only positive, and at it
    return (before + 1 / (rank + 1)) / 2 if rank < depth else 0.0


def test_every_strength(copydays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, arrays = run(copydays, "--copies.distractors", str(copydays / "other"), "--copies.depth", "6")
    assert "mAP strong" in capsys.readouterr().out
    files = {name: sorted(f"{name}/{p.name}" for p in (copydays / name).iterdir()) for name in
             ("original", "strong", "crops/50", "jpegqual/3", "other")}  # fmt: skip
    x = {name: described(copydays, names) for name, names in files.items()}
    x = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in x.items()}
    for block in ("original", "strong", "crops/50", "jpegqual/3"):
        for end, bank in (("", x["original"]), ("_with_distractors", np.concatenate([x["original"], x["other"]]))):
            wanted = [slow_ap(bank @ row, i, 6) for i, row in enumerate(x[block])]
            np.testing.assert_allclose(arrays[f"ap_{block}{end}"], wanted)
            metric = "copy_mAP_distractors" if end else "copy_mAP"
            (found,) = [s for s in result.scores if s.metric == metric and s.at["block"] == block]
            assert found.value == pytest.approx(np.mean(wanted)) and found.n == len(wanted)
    assert arrays["ap_original"].tolist() == [1.0] * 8
    assert "without jpegqual/5" in " ".join(result.notes)


def test_whitening_is_dinos(copydays: Path) -> None:
    x = np.random.default_rng(0).normal(size=(50, 6)) + 2
    mean, projection = copies.whitening(x)
    y = x @ projection
    np.testing.assert_allclose(y.T @ y / 50, np.eye(6), atol=1e-9)  # of the moments about zero, as DINO's
    np.testing.assert_allclose(mean, x.mean(0))
    result, _ = run(copydays, "--copies.whiten", str(copydays / "other"))
    assert "PCA whitening fitted on 8 images" in result.notes


def test_refused(copydays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="originals"):
        datasets.load(f"copydays={tmp_path}")
    (tmp_path / "original").mkdir()
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "original" / "200000.jpg")
    with pytest.raises(DataError, match="originals alone"):
        datasets.load(f"copydays={tmp_path}")
    (tmp_path / "strong").mkdir()
    image.save(tmp_path / "strong" / "200101.jpg")
    with pytest.raises(DataError, match="an original for each copy"):
        datasets.load(f"copydays={tmp_path}")
    image.save(tmp_path / "original" / "200001.jpg")
    with pytest.raises(DataError, match="differ in the first 4 letters"):
        datasets.load(f"copydays={tmp_path}")
    argv = ["run", DEIT, "--num-heads", "3", "--data", f"copydays={copydays}", "--protocols"]
    assert cli.main([*argv, "knn"]) == 2 and cli.main([*argv, "copies", "--copies.whiten", "/nowhere"]) == 2
    said = capsys.readouterr().err
    assert "a dataset of images for knn" in said and "a folder of images" in said
