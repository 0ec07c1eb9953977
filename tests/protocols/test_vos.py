"""Video object segmentation: the original's masks pixel by pixel, its rules one by one, a run from frames to J&F."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaltk import build_backbone, cli, load_checkpoint
from evaltk.bench import Bench, ImageOptions
from evaltk.data import frames
from evaltk.datasets import davis2017
from evaltk.deviations import DeviationKind
from evaltk.errors import DataError, SettingsError
from evaltk.features.extraction import Extraction
from evaltk.metrics import segmentation
from evaltk.models.backbone import Backbone
from protocols import vos
from protocols.vos import propagation
from protocols.vos.propagation import one_hot, winner

GOLDEN = Path(__file__).parents[1] / "golden"
COWS = GOLDEN / "davis_cows"
# cv2.resize (OpenCV 5.0.0) of default_rng(7) pixels [6, 9, 3] to 7 x 6, channel 0, and to 5 x 4, channel 1
NARROWER = [
    [154, 140, 77, 188, 166, 53, 69], [206, 130, 132, 76, 193, 85, 216], [77, 65, 191, 166, 144, 31, 177],
    [206, 103, 104, 230, 224, 115, 178], [86, 109, 43, 141, 157, 96, 67], [246, 209, 196, 179, 85, 54, 217],
]  # fmt: skip
SMALLER = [[115, 121, 167, 139, 84], [104, 37, 38, 72, 136], [65, 119, 87, 64, 98], [129, 174, 96, 106, 157]]


@pytest.fixture(scope="module")
def bench_parts() -> tuple[object, Backbone]:
    checkpoint = load_checkpoint(GOLDEN / "dino_p16_full_checkpoint.pth", num_heads=3)
    return checkpoint, build_backbone(checkpoint)


@pytest.fixture(scope="module")
def backbone(bench_parts: tuple[object, Backbone]) -> Backbone:
    return bench_parts[1]


def a_bench(parts: tuple[object, Backbone], cache: Path) -> Bench:
    checkpoint, net = parts
    return Bench(
        checkpoint=checkpoint,  # type: ignore[arg-type]
        backbone=net,
        device="cpu",
        seed=0,
        cache=cache,
        images=ImageOptions(),
        extraction=Extraction(),
    )


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def a_tree(root: Path, *, size: tuple[int, int] = (130, 70), num_frames: int = 5, names: tuple[str, ...] = ()) -> Path:
    """A folder in DAVIS's layout: discs that drift over noise, ids 1 and 3, some void."""
    (root / "ImageSets" / "2017").mkdir(parents=True)
    names = names or ("disc", "ball")
    (root / "ImageSets" / "2017" / "val.txt").write_text("\n".join(names) + "\n")
    for number, name in enumerate(names):
        ground = np.asarray(noise(size, seed=number)).copy()
        for t in range(num_frames):
            y, x = np.ogrid[: size[1], : size[0]]
            ids = np.zeros(size[::-1], dtype=np.uint8)
            ids[np.hypot(y - 30, x - 30 - 3 * t) < 20] = 1
            ids[np.hypot(y - 40, x - 100 + 2 * t) < 18] = 3
            ids[:2, :2] = 255
            picture = ground.copy()
            picture[ids == 1], picture[ids == 3] = (250, 20, 20), (20, 20, 250)
            for folder in ("JPEGImages", "Annotations"):
                (root / folder / "480p" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / "JPEGImages" / "480p" / name / f"{t:05d}.jpg", quality=95)
            frames.write_ids(root / "Annotations" / "480p" / name / f"{t:05d}.png", ids)
    return root


def test_masks_are_the_originals(backbone: Backbone) -> None:
    paths = sorted((COWS / "frames").glob("*.jpg"))
    expected = [frames.read_ids(COWS / "masks" / f"{path.stem}.png") for path in paths]
    found = vos.propagate(backbone, paths, expected[0], vos.Settings())
    assert found.dtype == np.uint8
    assert found.shape == (4, 480, 854)
    for t, mask in enumerate(expected):
        assert (found[t] == mask).mean() >= 0.995, t


def test_resizing_has_opencvs_bytes() -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    assert frames.resize_bilinear(pixels, 7, 6)[:, :, 0].tolist() == NARROWER
    assert frames.resize_bilinear(pixels, 5, 4)[:, :, 1].tolist() == SMALLER
    assert frames.resize_bilinear(pixels, 9, 6) is pixels


@pytest.mark.parametrize(
    ("full", "short", "expected"),
    [
        ((854, 480), 480, (832, 480)),
        ((910, 480), 480, (896, 480)),
        ((720, 480), 480, (704, 480)),
        ((1920, 1080), 480, (832, 480)),
        ((480, 854), 480, (480, 832)),
        ((480, 480), 480, (448, 480)),
    ],
)
def test_the_longer_side_is_a_multiple_of_64(full: tuple[int, int], short: int, expected: tuple[int, int]) -> None:
    assert frames.working_size(*full, short) == expected


def test_the_presets() -> None:
    assert vos.Settings().statistics()[1] == (0.228, 0.224, 0.225)
    assert vos.Settings().last_dropped()
    plain = vos.Settings(preset="plain")
    assert plain.statistics()[1] == (0.229, 0.224, 0.225)
    assert not plain.last_dropped()
    assert vos.Settings(std=(1.0, 1.0, 1.0), drop_last=False).statistics()[1] == (1.0, 1.0, 1.0)
    for wrong in ({"preset": "dinov2"}, {"topk": 0}, {"radius": -1}, {"temperature": 0.0}, {"size": 8}):
        with pytest.raises(SettingsError):
            vos.Settings(**wrong)  # type: ignore[arg-type]


def test_each_channel_is_stretched_by_itself() -> None:
    # Background 0.6 to 0.8, object 0.1 to 0.3: raw labels never name the object, stretched ones do where it is likely.
    background = torch.linspace(0.6, 0.8, 16).view(4, 4)
    labels = torch.stack([background, 0.9 - background], dim=2)
    assert winner(labels, 1).tolist() == (labels[..., 0] < 0.7).long().tolist()


def test_a_channel_that_is_the_same_everywhere_wins() -> None:
    labels = torch.zeros(2, 2, 3)
    labels[..., 1] = 0.5
    labels[0, 0, 2] = 1.0
    assert winner(labels, 2).tolist() == [[1] * 4] * 4
    assert winner(torch.zeros(2, 2, 3), 1).tolist() == [[0, 0], [0, 0]]


def test_ids_keep_their_gaps_and_tiny_objects_vanish() -> None:
    mask = np.zeros((32, 48), dtype=np.uint8)
    mask[:, 16:32] = 7
    mask[3, 3] = 9  # one pixel that the nearest resize to 2 x 3 tokens steps over
    mask[:, 44:] = 255
    objects, labels = one_hot(mask, torch.zeros(2, 3, 4))
    assert objects.tolist() == [0, 7]
    assert labels[..., 1].tolist() == [[0, 1, 0], [0, 1, 0]]
    assert labels.sum(dim=2).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_video_of_two_objects_at_an_odd_size(backbone: Backbone, tmp_path: Path) -> None:
    root = a_tree(tmp_path, size=(130, 70), names=("disc",))
    paths = sorted((root / "JPEGImages" / "480p" / "disc").iterdir())
    first = frames.read_ids(root / "Annotations" / "480p" / "disc" / "00000.png")
    found = vos.propagate(backbone, paths, first, vos.Settings(size=128))
    assert found.shape == (5, 70, 130)
    assert np.array_equal(found[0], first)
    assert set(np.unique(found[1:])) == {0, 1, 3}
    opened = [Image.open(path) for path in paths]
    assert np.array_equal(vos.propagate(backbone, opened, first, vos.Settings(size=128)), found)
    tall = [image.convert("RGB").transpose(Image.Transpose.TRANSPOSE) for image in opened]
    assert vos.propagate(backbone, tall, first.T, vos.Settings(size=128)).shape == (5, 130, 70)


def test_frames_at_once_where_memory_allows(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = a_tree(tmp_path, size=(130, 70), names=("disc",))
    paths = sorted((root / "JPEGImages" / "480p" / "disc").iterdir())
    first = frames.read_ids(root / "Annotations" / "480p" / "disc" / "00000.png")
    assert propagation.at_once(torch.device("cpu")) == 1 < propagation.at_once(torch.device("cuda"))
    alone = vos.propagate(backbone, paths, first, vos.Settings(size=128))
    seen, real = [], Backbone.tokens

    def tokens(self: Backbone, x: torch.Tensor) -> object:
        seen.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, x)

    monkeypatch.setattr(Backbone, "tokens", tokens)
    monkeypatch.setattr(propagation, "at_once", lambda device: 3)
    assert np.array_equal(vos.propagate(backbone, paths, first, vos.Settings(size=128)), alone)
    assert seen == [3, 2, 1, 2]


def test_what_does_not_fit_is_named(backbone: Backbone) -> None:
    picture, mask = noise((96, 64)), np.zeros((64, 96), dtype=np.uint8)
    with pytest.raises(DataError, match="first mask of 96 x 64"):
        vos.propagate(backbone, [picture], mask[:10], vos.Settings(size=64))
    with pytest.raises(DataError, match="got 64 x 96"):
        vos.propagate(backbone, [picture, noise((64, 96))], mask, vos.Settings(size=64))
    with pytest.raises(DataError, match="not an RGB image"):
        vos.propagate(backbone, [picture], np.zeros((64, 96, 3), dtype=np.uint8), vos.Settings(size=64))
    with pytest.raises(DataError, match="at least one frame"):
        vos.propagate(backbone, [], mask, vos.Settings(size=64))
    pixels = load_checkpoint("pixels:8")
    with pytest.raises(SettingsError, match="patch tokens"):
        vos.propagate(build_backbone(pixels), [picture], mask, vos.Settings(size=64))


def test_from_frames_to_scores_and_on_after_an_interruption(
    bench_parts: tuple[object, Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = davis2017.load(a_tree(tmp_path / "davis"))
    settings = vos.Settings(size=128, save_masks=str(tmp_path / "png"))
    bench = a_bench(bench_parts, tmp_path / "cache")
    broken = replace(dataset, sequences=(dataset.sequences[0], replace(dataset.sequences[1], frames=(Path("no.jpg"),))))
    with pytest.raises((DataError, FileNotFoundError)):
        vos.run(bench, broken, settings)
    asked: list[str] = []
    real = vos.propagate

    def counted(net: Backbone, paths: tuple[Path, ...], *rest: object) -> np.ndarray:
        asked.append(paths[0].parent.name)
        return real(net, paths, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(vos.protocol, "propagate", counted)
    outcome = vos.run(bench, dataset, settings)
    assert asked == ["ball"]  # the other one was finished before
    again = vos.run(bench, dataset, settings)
    assert asked == ["ball"]
    assert again.scores == outcome.scores
    _check_outcome(outcome, dataset, tmp_path / "png")


def _check_outcome(outcome: object, dataset: davis2017.Sequences, png: Path) -> None:
    """Scores and predictions against the metrics applied to the saved masks."""
    objects = []
    for sequence in dataset.sequences:
        folder = next(png.iterdir()) / sequence.name
        result = frames.read_masks([folder / mask.name for mask in sequence.masks])
        truth = frames.read_masks(sequence.masks)
        objects += segmentation.evaluate_sequence(truth, result, sequence=sequence.name)
    assert Image.open(folder / "00001.png").getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    expected = segmentation.summarise(objects)
    scores = {s.metric: s for s in outcome.scores}  # type: ignore[attr-defined]
    for metric, column in (("J&F", "J&F-Mean"), ("J", "J-Mean"), ("F", "F-Mean"), ("F_decay", "F-Decay")):
        assert scores[metric].value == pytest.approx(expected[column], abs=1e-12)
    low, high = scores["J&F"].interval
    assert low <= scores["J&F"].value <= high
    assert scores["J"].n == 6  # ids 1 to 3 of both; 2 is a gap, empty in truth and result alike
    predictions = outcome.predictions  # type: ignore[attr-defined]
    assert predictions["object"].tolist() == [f"{n}_{i}" for n in ("disc", "ball") for i in (1, 2, 3)]
    assert predictions["J"].tolist() == [pytest.approx(float(o.region.mean())) for o in objects]
    assert predictions["J_frames"].shape == (6, 3)


def test_other_settings_and_a_changed_frame_are_other_masks(
    bench_parts: tuple[object, Backbone], tmp_path: Path
) -> None:
    root = a_tree(tmp_path / "davis", names=("disc",))
    bench, settings = a_bench(bench_parts, tmp_path / "cache"), vos.Settings(size=64)
    made = lambda: len(list((tmp_path / "cache" / "features").iterdir()))  # noqa: E731
    vos.run(bench, davis2017.load(root), settings)
    vos.run(bench, davis2017.load(root), replace(settings, drop_last=False))
    assert made() == 1  # what is scored does not change the masks
    vos.run(bench, davis2017.load(root), replace(settings, topk=3))
    assert made() == 2
    noise((130, 70), seed=9).save(root / "JPEGImages" / "480p" / "disc" / "00002.jpg")
    vos.run(bench, davis2017.load(root), settings)
    assert made() == 3


def test_the_last_frame_counts_where_it_is_wanted(bench_parts: tuple[object, Backbone], tmp_path: Path) -> None:
    dataset = davis2017.load(a_tree(tmp_path / "davis", names=("disc",)))
    bench = a_bench(bench_parts, tmp_path / "cache")
    without, with_last = (
        vos.run(bench, dataset, vos.Settings(size=64, drop_last=drop)).predictions["J_frames"] for drop in (True, False)
    )
    assert without.shape == (3, 3)
    assert with_last.shape == (3, 4)
    assert np.array_equal(with_last[:, :3], without)


def test_a_net_with_its_own_pixel_statistics_deviates(bench_parts: tuple[object, Backbone], tmp_path: Path) -> None:
    dataset = davis2017.load(a_tree(tmp_path / "davis", names=("disc",)))
    bench = a_bench(bench_parts, tmp_path / "cache")
    assert not vos.run(bench, dataset, vos.Settings(size=64)).deviations
    other = replace(bench, checkpoint=replace(bench.checkpoint, mean=(0.5, 0.5, 0.5)))
    (deviation,) = vos.run(other, dataset, vos.Settings(size=64)).deviations
    assert deviation.kind is DeviationKind.PREPROCESSING and "(0.5, 0.5, 0.5)" in deviation.text


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = a_tree(tmp_path / "davis", names=("disc",))
    net = str(GOLDEN / "dino_p16_full_checkpoint.pth")
    words = ["run", net, "--num-heads", "3", "--protocols", "vos", "--data", f"davis2017={root}", "--device", "cpu"]
    words += ["--vos.size", "64", "--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    assert cli.main(words) == 0
    assert "J&F" in capsys.readouterr().out
    noise((40, 40), seed=9).save(root / "JPEGImages" / "480p" / "disc" / "00002.jpg")  # not of its mask's size

    def told() -> str:
        assert cli.main(words) == 2
        captured = capsys.readouterr()
        assert captured.err.count("wanted") == 1 and "Traceback" not in captured.err
        return captured.err

    assert "40 x 40" in told() and "00002" in told()
    (root / "Annotations" / "480p" / "disc" / "00000.png").unlink()
    assert "00000.png" in told()
