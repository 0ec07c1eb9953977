"""Segmentation: mIoU against the formula and torchmetrics, label maps, both methods by the real command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_inputs import DEIT

import evaltk
from evaltk import cli, datasets, results
from evaltk.data import sanity
from evaltk.data.dense import DenseSplit
from evaltk.data.options import DataOptions
from evaltk.data.transforms import Transform
from evaltk.errors import DataError
from evaltk.metrics import iou
from evaltk.types import Result
from protocols.segmentation import methods, settings
from protocols.segmentation.views import Views


def test_miou_is_the_formulas_and_torchmetrics() -> None:
    rng = np.random.default_rng(11)
    target = rng.integers(0, 5, (3, 20, 30))
    predicted = np.where(rng.random(target.shape) < 0.5, target, rng.integers(0, 5, target.shape))
    target[rng.random(target.shape) < 0.1] = 255
    matrix = sum(iou.confusion(t, p, 5) for t, p in zip(target, predicted, strict=True))
    found = iou.overlap(matrix)
    known = target != 255
    slow = []
    for c in range(5):
        a, b = (target == c) & known, (predicted == c) & known
        slow.append((a & b).sum() / (a | b).sum())
    np.testing.assert_allclose(found.iou, slow)
    # torchmetrics 1.9.0: multiclass_jaccard_index (macro), multiclass_accuracy (micro, macro), ignore_index=255
    torchmetrics = (0.4435292184352875, 0.6146341562271118, 0.614446759223938)
    assert (found.miou, found.pixel_accuracy, found.mean_accuracy) == pytest.approx(torchmetrics, abs=1e-6)


def test_classes_that_are_nowhere_do_not_count() -> None:
    found = iou.overlap(iou.confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 4))
    assert found.miou == 0.5 and np.isnan(found.iou[2:]).all() and found.mean_accuracy == 0.75
    with pytest.raises(DataError, match="all are void"):
        iou.overlap(iou.confusion(np.array([255]), np.array([0]), 2))
    for target, predicted in (([0], [2]), ([0, 1], [0]), ([3], [0])):
        with pytest.raises(DataError, match="classes from 0 to 1"):
            iou.confusion(np.array(target), np.array(predicted), 2)


def test_shares_of_patches() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (10, 14)).astype(np.uint8)
    labels[:5, :7] = 255
    found = methods.shares(labels, (2, 4), 3)
    for row in range(2):
        for column in range(4):
            inside = [
                labels[y, x]
                for y in range(10)
                for x in range(14)
                if int((y + 0.5) / 5) == row and int((x + 0.5) / 3.5) == column and labels[y, x] != 255
            ]
            wanted = [inside.count(c) / len(inside) if inside else 0 for c in range(3)]
            np.testing.assert_allclose(found[row, column], wanted, atol=1e-6)
    assert not found[0, :2].sum()  # void alone: no votes


def test_the_learning_rate_rises_and_falls() -> None:
    assert methods.rate(0, 100, 0) == 1 and methods.rate(50, 100, 0) == 0.5
    assert methods.rate(0, 100, 9) == pytest.approx(0.1) and methods.rate(9, 100, 9) == pytest.approx(0.91)
    assert settings.Settings().steps() == 40_000 and settings.Settings(preset="quick", iterations=7).steps() == 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a bright square (class 1) on dark noise (class 0), a void frame around it, in `masks` layout."""
    root, rng = tmp_path_factory.mktemp("masks"), np.random.default_rng(0)
    (root / "classes.txt").write_text("ground\nsquare\n")
    for split, count in (("train", 8), ("test", 4)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            pixels, labels = rng.integers(0, 60, (40, 52, 3)), np.zeros((40, 52), np.uint8)
            top, left = rng.integers(2, 18), rng.integers(2, 30)
            labels[top - 2 : top + 22, left - 2 : left + 22] = 255
            labels[top : top + 20, left : left + 20] = 1
            pixels[labels == 1] += 180
            Image.fromarray(pixels.astype(np.uint8)).save(root / split / "images" / f"{i}.png")
            Image.fromarray(labels).save(root / split / "masks" / f"{i}.png")
    return root


def run(folder: Path, *argv: str) -> tuple[Result, dict[str, np.ndarray]]:
    data = ["--data", f"squares:masks={folder}", "--out", str(folder / "runs"), "--position", "dino", "--quiet"]
    name = ["--protocols", "segmentation", "--segmentation.side", "32", "--segmentation.batch", "4"]
    assert cli.main(["run", DEIT, "--num-heads", "3", *name, *data, *argv]) == 0
    path, result = max(results.find(folder / "runs"), key=lambda found: found[0].stat().st_mtime_ns)
    return result, results.read_predictions(path)


def value(result: Result, metric: str, **at: object) -> float:
    (found,) = [s.value for s in result.scores if s.metric == metric and at.items() <= dict(s.at).items()]
    return found


def test_both_methods(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--segmentation.preset", "quick", "--segmentation.iterations", "40", "--segmentation.lr", "0.02"]
    result, arrays = run(folder, *quick, "--segmentation.methods", "linear", "knn", "--segmentation.k", "5")
    printed = capsys.readouterr().out
    assert "squares test, n = 4" in printed and "mIoU linear" in printed and "mIoU k-NN" in printed
    for name in ("linear", "knn"):
        matrix = arrays[f"confusion_{name}"]
        assert value(result, "miou", method=name) == pytest.approx(iou.overlap(matrix).miou)
        assert value(result, "miou", method=name) > 0.75
        void = sum((np.asarray(Image.open(p)) == 255).sum() for p in (folder / "test" / "masks").iterdir())
        assert matrix.sum() == 4 * 40 * 52 - void
        assert value(result, "iou", method=name, class_name="square") > 0.6
    assert arrays["loss"][-5:].mean() < 0.5 * arrays["loss"][:5].mean()
    again, _ = run(folder, *quick, "--segmentation.methods", "linear", "knn", "--segmentation.k", "5", "--again")
    assert again.scores == result.scores  # to the bit: crops depend on seed and step


def test_knn_by_hand(folder: Path) -> None:
    """Each test pixel by the votes of all training patches, interpolated as torch does it."""
    result, arrays = run(folder, "--segmentation.methods", "knn", "--segmentation.k", "3", "--limit", "2")
    net = evaltk.load_checkpoint(DEIT, num_heads=3)
    backbone = evaltk.build_backbone(net, position="dino")

    def tokens(pixels: np.ndarray) -> torch.Tensor:
        image = Image.fromarray(pixels).resize((40, 32), Image.Resampling.BICUBIC)  # 52 x 40, to patches of 4
        x = (np.asarray(image) / 255 - np.array(net.mean)) / np.array(net.std)
        return backbone.tokens(torch.tensor(x, dtype=torch.float32).permute(2, 0, 1)[None])[0].patches[0].double()

    dataset = datasets.load(f"squares:masks={folder}")
    from evaltk.data.limits import limited

    small = limited(dataset, 2, 0)
    bank, votes = [], []
    for i in range(2):
        pixels, labels = small.train.pair(i)
        bank.append(tokens(pixels))
        votes.append(methods.shares(labels, (8, 10), 2).flatten(0, 1).double())
    rows, share = torch.nn.functional.normalize(torch.cat(bank), dim=1), torch.cat(votes)
    rows, share = rows[share.sum(1) > 0], share[share.sum(1) > 0]
    matrix = np.zeros((2, 2), int)
    for i in range(2):
        pixels, labels = small.test.pair(i)
        cosine = torch.nn.functional.normalize(tokens(pixels), dim=1) @ rows.T
        scores = []
        for line in cosine:
            near = torch.argsort(-line)[:3]
            weight = torch.exp((line[near] - line[near[0]]) / 0.02)
            scores.append((weight[:, None] * share[near]).sum(0) / weight.sum())
        grid = torch.stack(scores).T.reshape(1, 2, 8, 10)
        found = torch.nn.functional.interpolate(grid, size=(40, 52), mode="bilinear").argmax(1)[0].numpy()
        for t, p in ((t, p) for t in (0, 1) for p in (0, 1)):
            matrix[t, p] += ((labels == t) & (found == p)).sum()
    assert np.abs(arrays["confusion_knn"] - matrix).sum() <= 4  # pixels where both classes tie but for rounding
    assert value(result, "miou") == pytest.approx(iou.overlap(arrays["confusion_knn"]).miou)


def test_crops(folder: Path) -> None:
    split = datasets.load(f"squares:masks={folder}").train
    plain = Transform(resize=16, crop=16, mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
    views = Views(side=32, patch=4, scaled=True, transform=plain, seed=0)
    padded = 0
    for step in range(30):
        pixels, labels = views.crop(split, 0, step, 0)
        again, _ = views.crop(split, 0, step, 0)
        assert pixels.shape == (32, 32, 3) and labels.shape == (32, 32) and np.array_equal(pixels, again)
        assert set(np.unique(labels).tolist()) <= {0, 1, 255}
        if (labels == 1).any():  # image and label map move together
            assert pixels[labels == 1].mean() > 150 > 100 > pixels[labels == 0].mean()
        padded += bool((pixels == 128).all(axis=2)[labels == 255].any())
    assert padded  # scales below 1 leave a border, gray and void
    assert views.whole(np.zeros((30, 61, 3), np.uint8)).shape == (1, 3, 32, 64)


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., None]:
    def write(name: str, *, size: tuple[int, int] = (6, 5), ids: int = 1, colour: bool = False) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.full((size[1], size[0], 3) if colour else (size[1], size[0]), ids, np.uint8)
        Image.fromarray(array).save(path)

    return write


def test_published_layouts(tmp_path: Path, files: Callable[..., None]) -> None:
    for name in ("a", "b"):
        files(f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg", colour=True)
        files(f"VOCdevkit/VOC2012/SegmentationClass/{name}.png", ids=20)
        files(f"ADEChallengeData2016/images/{'training' if name == 'a' else 'validation'}/{name}.jpg", colour=True)
        files(f"ADEChallengeData2016/annotations/{'training' if name == 'a' else 'validation'}/{name}.png", ids=150)
    files("ADEChallengeData2016/images/training/void.jpg", colour=True)
    files("ADEChallengeData2016/annotations/training/void.png", ids=0)
    lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    voc = datasets.load(f"voc2012={tmp_path}")
    assert voc.sizes == {"train": 1, "val": 1} and len(voc.train.classes) == 21
    assert (voc.test.mask(0) == 20).all()
    ade = datasets.load(f"ade20k={tmp_path}")
    assert ade.sizes == {"training": 2, "validation": 1} and len(ade.train.classes) == 150
    assert (ade.train.mask(0) == 149).all() and (ade.train.mask(1) == 255).all()  # 0 is void there


def test_images_of_ones_own_are_read_as_shown(tmp_path: Path, files: Callable[..., None]) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for split in ("train", "test"):
        files(f"{split}/images/0.png", colour=True)
        files(f"{split}/masks/0.png")
    turned = Image.Exif()
    turned[0x0112] = 3  # by half a turn, after which it has the same size
    path = tmp_path / "train/images/0.png"
    pixels = np.random.default_rng(0).integers(0, 256, np.asarray(Image.open(path)).shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=turned)
    shown = datasets.load(f"masks={tmp_path}")
    assert np.array_equal(shown.train.pair(0)[0], pixels[::-1, ::-1]) and "as shown" in shown.notes[-1]
    stored = datasets.load(f"masks={tmp_path}", DataOptions(show="as-reference"))
    assert np.array_equal(stored.train.pair(0)[0], pixels) and "as-reference" in stored.notes[-1]
    assert stored.fingerprint != shown.fingerprint


def test_bad_label_maps(tmp_path: Path, files: Callable[..., None]) -> None:
    with pytest.raises(DataError, match="names of the classes"):
        datasets.load(f"masks={tmp_path}")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for split in ("train", "test"):
        files(f"{split}/images/0.png", colour=True)
        files(f"{split}/masks/0.png")
    split: DenseSplit = datasets.load(f"masks={tmp_path}").train
    assert split.pair(0)[1].shape == (5, 6)
    files("train/masks/0.png", ids=2)
    with pytest.raises(DataError, match="ids from 0 to 1, or 255 for void; got 2"):
        split.mask(0)
    files("train/masks/0.png", size=(5, 6))
    with pytest.raises(DataError, match=r"6 x 5, the size of train/images/0\.png; got 5 x 6"):
        split.pair(0)
    files("train/masks/0.png", colour=True)
    with pytest.raises(DataError, match="mode P or L"):
        split.mask(0)
    files("train/images/1.png", colour=True)
    with pytest.raises(DataError, match="alone: 1"):
        datasets.load(f"masks={tmp_path}")
    files("train/masks/1.png")
    files("train/images/1.bmp", colour=True)  # which of the two has that label map?
    with pytest.raises(DataError, match=r"one file of a name; got train/images/1\.bmp and train/images/1\.png"):
        datasets.load(f"masks={tmp_path}")
    for text, says in ((b"a\na\n", "each class once; got twice: a"), (b"\xff\n", "invalid start byte")):
        (tmp_path / "classes.txt").write_bytes(text)
        (tmp_path / "train/images/1.bmp").unlink(missing_ok=True)
        with pytest.raises(DataError, match=says):
            datasets.load(f"masks={tmp_path}")


def test_test_images_among_the_training_images(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "data", ignore=shutil.ignore_patterns("runs"))
    assert sanity.shared_images(datasets.load(f"masks={tmp_path / 'data'}")) == ()
    shutil.copy(tmp_path / "data/train/images/0.png", tmp_path / "data/test/images/0.png")
    with pytest.raises(DataError, match="test images of masks that are not in train too; got 1 of 4"):
        sanity.shared_images(datasets.load(f"masks={tmp_path / 'data'}"))


def test_lists_of_images_that_will_not_do(tmp_path: Path, files: Callable[..., None]) -> None:
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    files("JPEGImages/a.jpg", colour=True)
    files("SegmentationClass/a.png")
    (lists / "val.txt").write_text("a\n")
    cases = {
        "a\na\n": "each image of train once",
        "../JPEGImages/a\n": "leads out",
        "a\0\n": "2 missing",
        "": "lines in",
    }
    cases |= {"n" * 300: "2 missing"}
    for text, says in cases.items():
        (lists / "train.txt").write_text(text)
        with pytest.raises(DataError, match=says):
            datasets.load(f"voc2012={tmp_path}")
