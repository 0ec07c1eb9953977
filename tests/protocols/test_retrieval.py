"""Retrieval on a small tree in the official layout, against features and rankings made by plain loops."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from evaltk import build_backbone, cli, datasets, load_checkpoint
from evaltk.bench import Bench, ImageOptions, Outcome
from evaltk.data.galleries import Gallery
from evaltk.deviations import DeviationKind
from evaltk.errors import DataError, SettingsError
from evaltk.features import passes
from evaltk.features.extraction import Extraction
from evaltk.metrics import retrieval as metrics
from evaltk.models.backbone import Backbone
from protocols import retrieval
from protocols.retrieval import ranking

GOLDEN = Path(__file__).parents[1] / "golden"
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
NUM_IMAGES, NUM_QUERIES = 14, 3
BOXES = [(4.0, 6.5, 70.0, 60.0), (10.0, 10.0, 60.2, 58.0), (0.0, 0.0, 50.0, 64.0)]


@pytest.fixture(scope="module")
def checkpoint() -> object:
    return load_checkpoint(GOLDEN / "dino_p16_full_checkpoint.pth", num_heads=3)


@pytest.fixture(scope="module")
def backbone(checkpoint: object) -> Backbone:
    return build_backbone(checkpoint)  # type: ignore[arg-type]


@pytest.fixture
def bench(checkpoint: object, backbone: Backbone, tmp_path: Path) -> Bench:
    return Bench(
        checkpoint=checkpoint,  # type: ignore[arg-type]
        backbone=backbone,
        device="cpu",
        seed=0,
        cache=tmp_path / "cache",
        images=ImageOptions(),
        extraction=Extraction(),
    )


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize((80 + 9 * (seed % 4), 66 + 7 * (seed % 3)), Image.Resampling.BICUBIC)


def a_tree(root: Path, name: str = "roxford5k", *, first: int = 0, folder: str = "jpg") -> Path:
    """gnd_NAME.pkl as the official files have it, and its images."""
    (root / folder).mkdir(parents=True)
    imlist = [f"all_souls_{i:06d}" for i in range(NUM_IMAGES)]
    qimlist = [f"query_{i:06d}" for i in range(NUM_QUERIES)]
    for number, image in enumerate((*imlist, *qimlist)):
        picture(first + number).save(root / folder / f"{image}.jpg", quality=95)
    gnd = [
        {"bbx": BOXES[q], "easy": [q, q + 5] if q else [], "hard": [q + 3], "junk": [q + 8, q + 9]}
        for q in range(NUM_QUERIES)
    ]
    with (root / f"gnd_{name}.pkl").open("wb") as stream:
        pickle.dump({"imlist": imlist, "qimlist": qimlist, "gnd": gnd}, stream, protocol=2)
    return root


def plain(backbone: Backbone, image: Image.Image, imsize: int, scales: tuple[float, ...]) -> np.ndarray:
    """The unit descriptor of one image, step by step."""
    image = image.convert("RGB")
    image.thumbnail((imsize, imsize), Image.Resampling.LANCZOS)
    x = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255 - MEAN) / STD
    total = torch.zeros(1, 48)
    for s in scales:
        inside = x if s == 1 else F.interpolate(x, scale_factor=s, mode="bilinear", align_corners=False)
        total += backbone.tokens(inside)[0].cls
    return F.normalize(total / len(scales), dim=1)[0].numpy()


def plain_ranks(
    backbone: Backbone, dataset: Gallery, imsize: int, scales: tuple[float, ...], *, crop: bool = False
) -> np.ndarray:
    """[Q, N] by similarity falling, index rising."""

    def opened(name: str, box: tuple[float, ...] | None = None) -> Image.Image:
        image = Image.open((dataset.database.root or Path()) / f"{name}.jpg").convert("RGB")
        return image if box is None else image.crop(box)  # type: ignore[arg-type]

    boxes = BOXES if crop else [None] * NUM_QUERIES
    x = np.stack([plain(backbone, opened(name), imsize, scales) for name in dataset.truth.imlist])
    pairs = zip(dataset.truth.qimlist, boxes, strict=True)
    q = np.stack([plain(backbone, opened(name, box), imsize, scales) for name, box in pairs])
    return np.argsort(-(q @ x.T), axis=1, kind="stable")


def check_scores(outcome: Outcome, dataset: Gallery, ranks: np.ndarray) -> None:
    expected = metrics.evaluate(ranks, dataset.truth.gnd)
    found = {s.metric: s for s in outcome.scores}
    for difficulty, values in expected.items():
        for name, value in values.items():
            key = f"{difficulty}_{name.replace('mp@', 'mP@').replace('map', 'mAP')}"
            assert found[key].value == pytest.approx(value, abs=1e-12)
    assert found["easy_mAP"].n == 2  # the first query has no easy image
    assert found["hard_mAP"].n == 3


@pytest.mark.parametrize(
    ("name", "settings", "imsize", "scales", "crop"),
    [
        ("roxford5k", {}, 224, (1.0,), False),
        ("rparis6k", {}, 512, (1.0, 1 / 2**0.5, 0.5), False),
        ("roxford5k", {"preset": "official"}, 224, (1.0,), True),
        ("rparis6k", {"imsize": 64, "scales": (1.0, 0.5), "crop": True}, 64, (1.0, 0.5), True),
    ],
)
def test_rankings_are_those_of_plain_loops(
    bench: Bench,
    tmp_path: Path,
    name: str,
    settings: dict[str, object],
    imsize: int,
    scales: tuple[float, ...],
    crop: bool,
) -> None:
    dataset = datasets.load(f"{name}={a_tree(tmp_path / 'data', name)}")
    outcome = retrieval.run(bench, dataset, retrieval.Settings(**settings))  # type: ignore[arg-type]
    ranks = plain_ranks(bench.backbone, dataset, imsize, scales, crop=crop)
    assert np.array_equal(outcome.predictions["ranks"], ranks)
    check_scores(outcome, dataset, ranks)
    assert outcome.scores[0].at["crop"] is crop
    low, high = outcome.scores[0].interval or (1.0, 0.0)
    assert low <= outcome.scores[0].value <= high
    assert outcome.predictions["query"].tolist() == list(dataset.truth.qimlist)
    ap = metrics.per_query(ranks, dataset.truth.gnd)["medium"]["ap"]
    np.testing.assert_allclose(outcome.predictions["medium_ap"], ap)


def test_a_second_run_extracts_nothing(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = datasets.load(f"roxford5k={a_tree(tmp_path / 'data')}")
    first = retrieval.run(bench, dataset, retrieval.Settings())
    monkeypatch.setattr(passes, "fill", lambda *rest: pytest.fail("extracted again"))
    assert retrieval.run(bench, dataset, retrieval.Settings()).scores == first.scores


def test_patches_are_pooled_by_a_generalised_mean(bench: Bench, tmp_path: Path) -> None:
    from evaltk.types import Tokens
    from protocols.retrieval.descriptors import Pooling, pooled

    tokens = Tokens(cls=torch.ones(1, 2), patches=torch.tensor([[[1.0, -1.0], [3.0, 2.0]]]), grid=(1, 2))
    found = pooled(tokens, Pooling(kind="cls+gem", power=2.0))
    np.testing.assert_allclose(found, [[1, 1, 5**0.5, 2**0.5]], rtol=1e-5)
    dataset = datasets.load(f"roxford5k={a_tree(tmp_path / 'data')}")
    runs = [
        retrieval.run(bench, dataset, retrieval.Settings(pooling=kind))  # type: ignore[arg-type]
        for kind in ("cls", "gem", "cls+gem")
    ]
    assert len({run.predictions["ranks"].tobytes() for run in runs}) == 3


def test_whitening_is_learnt_on_the_other_set(bench: Bench, tmp_path: Path) -> None:
    dataset = datasets.load(f"roxford5k={a_tree(tmp_path / 'data')}")
    other = a_tree(tmp_path / "paris", "rparis6k", first=40)
    settings = retrieval.Settings(whiten=f"rparis6k={other}", whiten_dims=5)
    outcome = retrieval.run(bench, dataset, settings)
    assert "5 dimensions" in outcome.notes[0]
    with pytest.raises(SettingsError, match="1 to 13 dimensions"):  # 14 images vary in 13 directions
        retrieval.run(bench, dataset, retrieval.Settings(whiten=f"rparis6k={other}", whiten_dims=40))
    with pytest.raises(SettingsError, match="another dataset"):
        retrieval.run(bench, dataset, retrieval.Settings(whiten=f"roxford5k={tmp_path / 'data'}"))


def test_whitened_rows_of_the_learning_set_have_unit_covariance() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((400, 6)) * np.arange(1, 7) + 3).astype(np.float32)
    found = ranking.learn_whitening(x, 4)
    unit = torch.nn.functional.normalize(torch.from_numpy(x), dim=1)
    y = (unit - found.mean) @ found.projection
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(4), atol=1e-4)
    variances = np.linalg.eigvalsh(np.cov(unit.numpy().T, bias=True))[::-1]
    np.testing.assert_allclose(torch.linalg.vector_norm(found.projection, dim=0), variances[:4] ** -0.5, rtol=1e-4)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_distractors_stand_where_a_whole_ranking_has_them(block: int) -> None:
    rng = np.random.default_rng(1)
    queries, database, bank = (rng.standard_normal((n, 5)).astype(np.float32) for n in (4, 9, 23))
    bank[3], bank[11] = database[2], 2 * database[5]  # ties: the database comes first
    found = ranking.rank(queries, database, distractors=bank, keep=12, block=block)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, np.concatenate([database, bank]))]
    whole = np.argsort(-(unit[0].astype(np.float64) @ unit[1].T).astype(np.float32), axis=1, kind="stable")
    assert np.array_equal(found.top, whole[:, :12])
    at = np.argsort(whole, axis=1)  # [Q, N + M], the place of each image
    np.testing.assert_array_equal(np.arange(9) + found.ahead, np.take_along_axis(at, found.order, axis=1))
    gnd = [{"easy": [1, 4], "hard": [7], "junk": [2]} for _ in range(4)]
    expected = metrics.per_query(whole, gnd, num_database=32)
    for difficulty, values in ranking.score(found, gnd).items():
        for name, value in values.items():
            np.testing.assert_allclose(value, expected[difficulty][name])


def test_distractors_from_a_folder_and_from_features(bench: Bench, tmp_path: Path) -> None:
    dataset = datasets.load(f"roxford5k={a_tree(tmp_path / 'data')}")
    (tmp_path / "others" / "deep").mkdir(parents=True)
    for i in range(5):
        picture(100 + i).save(tmp_path / "others" / "deep" / f"{i}.jpg", quality=95)
    names = sorted((tmp_path / "others" / "deep").iterdir())
    x = np.stack([plain(bench.backbone, Image.open(name), 224, (1.0,)) for name in names])
    np.save(tmp_path / "others.npy", x)
    runs = [
        retrieval.run(bench, dataset, retrieval.Settings(distractors=str(tmp_path / where)))
        for where in ("others", "others.npy")
    ]
    assert np.array_equal(runs[0].predictions["top"], runs[1].predictions["top"])
    assert runs[0].predictions["top"].shape == (NUM_QUERIES, NUM_IMAGES + 5)
    assert runs[0].scores[0].at["distractors"] == 5
    np.save(tmp_path / "narrow.npy", x[:, :7])
    for wrong, told in (("narrow.npy", r"distractors \[M, 48\]"), ("none.npy", "features"), ("none", "a folder")):
        with pytest.raises(DataError, match=told):
            retrieval.run(bench, dataset, retrieval.Settings(distractors=str(tmp_path / wrong)))


def test_missing_images_are_named_at_once_and_other_layouts_are_found(tmp_path: Path) -> None:
    root = a_tree(tmp_path / "data" / "roxford5k", folder="jpg/christ_church")
    found = datasets.load(f"mine:roxford5k={tmp_path / 'data'}")
    assert found.name == "mine"
    assert (found.database.files or ())[0] == "christ_church/all_souls_000000.jpg"
    assert found.deviations[0].kind is DeviationKind.UNKNOWN_IMAGES and not found.notes
    (root / "oxbuild_images-v1.tgz").touch()
    blurred = datasets.load(f"roxford5k={tmp_path / 'data'}")
    assert [d.kind for d in blurred.deviations] == [DeviationKind.GROUND_TRUTH] and "blurred v1" in blurred.notes[0]
    (root / "oxbuild_images-v1.tgz").rename(root / "oxbuild_images.tgz")
    original = datasets.load(f"roxford5k={tmp_path / 'data'}")
    assert original.deviations[0].kind is DeviationKind.ORIGINAL_IMAGES
    for name in ("all_souls_000003", "query_000001"):
        (root / "jpg" / "christ_church" / f"{name}.jpg").unlink()
    with pytest.raises(DataError, match="2 missing: all_souls_000003, query_000001"):
        datasets.load(f"roxford5k={root}")
    with pytest.raises(DataError, match=r"gnd_rparis6k\.pkl"):
        datasets.load(f"rparis6k={root}")


def test_an_image_that_ends_early_is_taken_as_far_as_it_goes(bench: Bench, tmp_path: Path) -> None:
    from PIL import ImageFile

    root = a_tree(tmp_path / "data")
    path = root / "jpg" / "all_souls_000002.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    dataset = datasets.load(f"roxford5k={root}")
    retrieval.run(bench, dataset, retrieval.Settings(imsize=64))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match="all_souls_000002"):
        retrieval.run(bench, datasets.load(f"roxford5k={root}"), retrieval.Settings(imsize=64))


def test_an_image_smaller_than_a_patch_is_told(bench: Bench, tmp_path: Path) -> None:
    dataset = datasets.load(f"roxford5k={a_tree(tmp_path / 'data')}")
    with pytest.raises(DataError, match="at least one patch"):
        retrieval.run(bench, dataset, retrieval.Settings(imsize=24, scales=(0.5,)))


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"preset": "x"}, {"imsize": 0}, {"scales": ()}, {"scales": (0.0,)}, {"gem_power": 0.0}, {"keep": 0}):
        with pytest.raises(SettingsError):
            retrieval.Settings(**wrong)  # type: ignore[arg-type]


class Runs:
    """A pickle that makes a folder when it is loaded the usual way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = a_tree(tmp_path / "oxford")
    net = str(GOLDEN / "dino_p16_full_checkpoint.pth")
    words = ["run", net, "--num-heads", "3", "--protocols", "retrieval", "--data", f"roxford5k={root}"]
    words += ["--device", "cpu", "--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    assert cli.main(words) == 0
    assert "retrieval M mAP" in capsys.readouterr().out
    (root / "jpg" / "all_souls_000003.jpg").unlink()
    (root / "jpg" / "query_000001.jpg").unlink()
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "all_souls_000003" in error and "query_000001" in error and "Traceback" not in error
    mark = tmp_path / "executed"
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({"imlist": ["a"], "qimlist": [Runs(mark)], "gnd": []}))
    assert cli.main(words) == 2
    assert "which was not loaded" in capsys.readouterr().err
    assert not mark.exists()
