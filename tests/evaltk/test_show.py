"""`evaltk show`: the page of small nets on small images, and what it refuses."""

from __future__ import annotations

import importlib.util
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from family_files import FILES
from family_files import GOLDEN as FAMILY_FILES
from PIL import Image

from evaltk import cli, datasets, results
from evaltk.data import decoding
from evaltk.metrics.retrieval import evaluate
from evaltk.pictures import images, near

DEIT = str(FAMILY_FILES / "deit_checkpoint.pth")
ESVIT = str(FAMILY_FILES / "esvit_swin_checkpoint.pth")
assert FILES["deit"][1] == {"num_heads": 3} and FILES["esvit_swin"][1] == {}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six classes, each of a colour of its own; the last one of the test images has the colour of the first."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for c in range(6):
            folder = tmp_path / "data" / split / f"<class {c}>"
            folder.mkdir(parents=True)
            for i in range(count):
                bits = 1 + (0 if split == "test" and c == 5 else c)  # which of red, green and blue are bright
                pixels = rng.integers(0, 40, (24, 20, 3)) + 200 * np.array([bits & 1, bits >> 1 & 1, bits >> 2])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "data"


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Path]]:
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))

    def run(*argv: str) -> tuple[int, Path]:
        out = tmp_path / "page.html"
        return cli.main(["show", *argv, "--out", str(out), "--quiet", "--workers", "0"]), out

    return run


def test_two_nets_side_by_side(show: Callable[..., tuple[int, Path]], data: Path) -> None:
    argv = ["--num-heads", "3", "--data", f"x:imagefolder={data}", "--images", "5", "--k", "3", "--map", "pca"]
    code, out = show(DEIT, ESVIT, *argv)
    assert code == 2 and not out.exists()  # heads are a flag for all nets, and Swin's file has its own
    code, out = show(DEIT, "pixels:16", *argv)
    assert code == 0
    text = out.read_text()
    assert len(text) < 1_000_000
    names = re.findall(r'<h2 id="(\w+)">', text)
    assert names == ["attention", "components", "correspondences", "neighbours", "mistakes", "map"]
    assert "<class 0>" not in text and "&lt;class 0&gt;" in text
    drawings = re.findall(r'<svg class="drawing".*?</svg>', text)
    per_image = sum("Attention maps: " in d for d in drawings)
    assert per_image == 5
    maps = next(d for d in drawings if "Attention maps: " in d)
    assert maps.count("<image") == 1 + 3 and maps.count("<use") == 1  # mean and three heads beside the image
    assert sum("Neighbours: " in d for d in drawings) == 10
    assert text.count("<circle class=") == 2 * 12 + 6  # every test image in the map, every class in the legend
    used, there = set(re.findall(r'href="#(p\d+)"', text)), set(re.findall(r'symbol id="(p\d+)"', text))
    assert used == there
    # Both test images of the last class look like the first: k-NN is sure of them.
    assert "deit_checkpoint: 10 of 12 right, k = 3" in text and "pixels:16: 10 of 12 right, k = 3" in text
    assert text.count("<figcaption>test/&lt;class 5&gt;/") == 2 * 2


def test_a_net_without_attention_says_so(show: Callable[..., tuple[int, Path]], data: Path) -> None:
    code, out = show(ESVIT, "--data", str(data / "train"), "--images", "1", "--pictures", "attention", "components")
    assert code == 0
    text = out.read_text()
    assert "has no class token that attends to patches" in text and "Components: " in text
    code, out = show("pixels:8", "--data", str(data / "train"), "--images", "1", "--force")
    assert code == 0
    assert "fewer than four" in out.read_text() and "they need two images" in out.read_text()


def test_whole_images_keep_their_shape(show: Callable[..., tuple[int, Path]], data: Path) -> None:
    argv = ["--num-heads", "3", "--data", str(data / "train"), "--images", "1", "--pictures", "attention", "--whole"]
    code, out = show(DEIT, *argv, "--position", "dino")
    assert code == 0
    assert 'viewBox="0 0 16 16"' in out.read_text()  # 16 x 19 cut to whole patches of 4
    code, out = show(DEIT, *argv, "--position", "dino", "--crop", "20", "--force")
    assert code == 0
    assert 'viewBox="0 0 20 24"' in out.read_text()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--images", "0"], "wanted 1 or more; got 0; where: --images"),
        (["--bank", "1"], "where: --bank"),
        (["--mass", "1.5"], "share in (0, 1]"),
        (["--block", "3"], "block from 1 to 2; got 3"),
        (["--k", "0"], "where: --k"),
        (["--map", "umap"], "umap-learn"),
    ],
)
def test_refused(
    argv: list[str],
    said: str,
    show: Callable[..., tuple[int, Path]],
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "umap", None)
    code, out = show(DEIT, "--num-heads", "3", "--data", str(data / "train"), "--images", "2", *argv)
    error = capsys.readouterr().err
    assert code == 2 and said in error and len(error) < 300 and not out.exists()


def test_images_of_every_kind(show: Callable[..., tuple[int, Path]], tmp_path: Path) -> None:
    """Gray, 16 bits, palette, transparent, CMYK, one pixel, one bit; a broken one is left out where that is allowed."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    slope = (np.add.outer(np.arange(20), np.arange(30)) * 5).astype(np.uint8)
    colour = np.dstack([slope, slope[::-1], slope[:, ::-1]])
    Image.fromarray(slope).save(folder / "gray.png")
    Image.fromarray(slope.astype(np.uint16) * 257).save(folder / "gray16.png")
    Image.fromarray(np.dstack([colour, slope])).save(folder / "rgba.png")
    Image.fromarray(colour).quantize(16).save(folder / "palette.png")
    Image.fromarray(colour).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(colour[:1, :1]).save(folder / "pixel.png")
    Image.fromarray(slope > 100).save(folder / "bit.png")
    (folder / "torn.png").write_bytes(b"no image")
    argv = ["--num-heads", "3", "--data", str(folder), "--pictures", "attention", "components", "neighbours", "map"]
    assert show(DEIT, *argv)[0] == 2
    code, out = show(DEIT, *argv, "--skip-bad-images", "1")
    text = out.read_text()
    assert code == 0 and "left out: 1 of the images drawn to be shown" in text and "features of 7 images" in text
    drawn = re.findall(r'aria-label="Attention maps: [^"]*, (\w+\.\w+)', text)
    assert len(drawn) == 7 and "torn.png" not in drawn
    shown = decoding.Reading(show="as-shown")
    pixels = {path.name: np.asarray(decoding.rgb(path, shown)) for path in folder.glob("gray*")}
    assert np.abs(pixels["gray.png"].astype(int) - pixels["gray16.png"]).max() <= 1


def test_a_strip_is_not_shown_whole(
    show: Callable[..., tuple[int, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "strips"
    folder.mkdir()
    Image.new("RGB", (400, 4)).save(folder / "a.png")
    argv = ["--num-heads", "3", "--position", "dino", "--data", str(folder), "--images", "1", "--pictures", "attention"]
    assert show(DEIT, *argv, "--whole")[0] == 2
    assert "got 400 x 4 px; where: a.png" in capsys.readouterr().err
    assert show(DEIT, *argv)[0] == 0


def test_who_is_shown_searched_and_judged(data: Path) -> None:
    found = datasets.load(f"x:imagefolder={data}")
    chosen = images.choose(found, count=6, bank=10, points=8, seed=0)
    assert [len(s) for s in (chosen.shown, chosen.bank, chosen.judged)] == [6, 10, 8]
    assert len(set(chosen.shown.labels.tolist())) == 6 and not chosen.alone and chosen.labelled
    assert set(chosen.shown.files or ()) <= set(chosen.judged.files or ())
    alone = images.choose(found.test, count=6, bank=10, points=8, seed=0)
    assert alone.alone and "no image counts as a neighbour of its own" in alone.notes[-1]
    assert images.pairs(found.test, 9) == [(2 * c, 2 * c + 1) for c in range(6)]
    assert images.pairs(chosen.shown, 9) == [(0, 1), (2, 3), (4, 5)]


def test_maps_are_flat_and_seeded() -> None:
    x = np.random.default_rng(0).normal(size=(12, 5))
    there = ("pca", "tsne", *(["umap"] if importlib.util.find_spec("umap") else []))
    for method in there:
        a, b = near.flat(x, method, 1), near.flat(x, method, 1)  # type: ignore[arg-type]
        assert a.shape == (12, 2) and np.isfinite(a).all() and np.array_equal(a, b)
    centred = x - x.mean(0)
    axes = np.linalg.svd(centred)[2][:2]
    assert np.allclose(np.abs(near.flat(x, "pca", 0)), np.abs(centred @ axes.T))
    assert near.flat(np.ones((3, 1)), "pca", 0).shape == (3, 2)


COWS = FAMILY_FILES.parent / "davis_cows"


def test_videos(show: Callable[..., tuple[int, Path]], tmp_path: Path) -> None:
    root = tmp_path / "davis"
    for kind, source, ending in (("JPEGImages", "frames", "jpg"), ("Annotations", "masks", "png")):
        (root / kind / "480p" / "cows").mkdir(parents=True)
        for i in range(4):
            data = (COWS / source / f"{i:05d}.{ending}").read_bytes()
            (root / kind / "480p" / "cows" / f"{i:05d}.{ending}").write_bytes(data)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("cows\n")
    argv = ["--num-heads", "3", "--position", "dino", "--data", f"davis2017={root}", "--images", "1", "--crop", "16"]
    code, out = show(DEIT, *argv, "--pictures", "videos", "--frames", "3", "--video-size", "64")
    text = out.read_text()
    assert code == 0 and text.count("Masks: deit_checkpoint, cows") == 1 and "over 2 frames" in text
    strip = next(d for d in re.findall(r'<svg class="drawing".*?</svg>', text) if "Annotation: cows" in d)
    assert strip.count("<use") == 3 and "data:image/webp" in text


def test_ranks_are_those_of_the_protocol(show: Callable[..., tuple[int, Path]], tmp_path: Path) -> None:
    root, rng = tmp_path / "paris", np.random.default_rng(0)
    (root / "jpg").mkdir(parents=True)
    names = [f"image_{i}" for i in range(9)] + ["query_0", "query_1"]
    for name in names:
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((32, 24)).save(root / "jpg" / f"{name}.jpg")
    gnd = [{"bbx": (0.0, 0.0, 9.0, 9.0), "easy": [q], "hard": [q + 3], "junk": [q + 6]} for q in range(2)]
    with (root / "gnd_rparis6k.pkl").open("wb") as stream:
        pickle.dump({"imlist": names[:9], "qimlist": names[9:], "gnd": gnd}, stream, protocol=2)
    argv = ["--num-heads", "3", "--position", "dino", "--data", f"rparis6k={root}", "--images", "2", "--pictures"]
    code, out = show(DEIT, *argv, "ranks")
    text = out.read_text()
    rows = [d for d in re.findall(r'<svg class="drawing".*?</svg>', text) if "Ranks: " in d]
    assert code == 0 and len(rows) == 2
    assert cli.main(["run", DEIT, *argv[:-3], "--protocols", "retrieval", "--out", str(tmp_path / "runs"), "-q"]) == 0
    ((path, _),) = results.find(tmp_path / "runs")
    order = results.read_predictions(path)["ranks"]
    for query, row in enumerate(rows):
        said = re.findall(r">\d\. (easy|hard|junk|not relevant)<", row)
        marks = {query: "easy", query + 3: "hard", query + 6: "junk"}
        assert said == [marks.get(int(i), "not relevant") for i in order[query, :8]]
        frames = re.findall(r'class="frame (\w+)"', row)
        kinds = {"easy": "good", "hard": "hard", "junk": "junk", "not relevant": "bad"}
        assert frames == [kinds[one] for one in said]
        ap = evaluate(order[query : query + 1], gnd[query : query + 1])["medium"]["map"]
        assert f"AP (medium) {100 * ap:.1f} %" in text
    assert show(DEIT, *argv, "videos", "--force")[0] == 2
    assert show(DEIT, *argv, "ranks", "--force", "--runs", str(tmp_path / "home"))[0] == 2  # no results there
    assert show(DEIT, *argv, "ranks", "--force", "--runs", str(tmp_path / "runs"))[0] == 0
    report = out.read_text()
    assert '<a href="#pictures">' in report and '<h3 id="pictures-ranks">' in report and "provenance" in report
    drawn = [d for d in re.findall(r'<svg class="drawing".*?</svg>', report) if "Ranks: " in d]
    assert drawn == rows
    assert set(re.findall(r'href="#(p\d+)"', report)) == set(re.findall(r'symbol id="(p\d+)"', report))
