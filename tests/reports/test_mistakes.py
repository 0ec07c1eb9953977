"""Images most confidently wrong, on the page: which, in what order, how many, and what of them can be seen."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from noise_images import write_image
from PIL import Image
from result_files import made

from evaltk import cli, datasets, results
from evaltk.data.options import DataOptions
from evaltk.pictures import thumbnails
from evaltk.running import remembered
from evaltk.types import Result, ResultData, Score
from reports.page import mistakes
from reports.page.build import build_page

HOSTILE = "<script>alert(1)</script>.png"


class Shown:
    """Images of which each has a picture of `size` bytes, or none."""

    classes = ("cat", "d<o>g", "owl")

    def __init__(self, size: int = 100, missing: str = "") -> None:
        self.size, self.missing = size, missing

    def name(self, row: int) -> str:
        return HOSTILE if row == 3 else f"test/{row}.png"

    def thumbnail(self, row: int) -> bytes | None:
        return bytes(self.size) if self.size else None


def transfer(name: str = "net") -> Result:
    score = Score(dataset="toy", split="test", metric="top1", value=0.5, n=8, at={"mode": "cv5", "l2": 1.0})
    return made(name, "transfer", "toy", [score])


ARRAYS = {
    "target": np.asarray([0, 1, 2, 0, 1, 2, 0, 1]),
    "predicted": np.asarray([0, 0, 2, 1, 2, 1, 0, 0]),
    "predicted_confidence": np.asarray([0.99, 0.6, 0.9, 0.8, 0.8, 0.7, np.nan, np.nan], dtype=np.float32),
}


def test_the_most_confident_mistakes_come_first() -> None:
    (strip,), left = mistakes.strips([(Path("a.json"), transfer())], lambda path: ARRAYS, lambda r, t: Shown(), 3)
    assert [one.name for one in strip.mistakes] == [HOSTILE, "test/4.png", "test/5.png"]  # 0.8, 0.8, 0.7; rows rise
    assert [(one.true, one.predicted, one.confidence) for one in strip.mistakes] == [
        ("cat", "d<o>g", "80.0 %"),
        ("d<o>g", "owl", "80.0 %"),
        ("owl", "d<o>g", "70.0 %"),
    ]
    assert (strip.model, strip.task, strip.wrong) == ("net", "transfer", "5 of 8 images are wrong")
    assert left == 0 and strip.missing == ""


def test_classifiers_and_bytes_are_bounded() -> None:
    many = [(Path(f"{n}.json"), transfer(f"net{n}")) for n in range(mistakes.CLASSIFIERS + 2)]
    large = mistakes.PAGE_BYTES // 2
    shown, left = mistakes.strips(many, lambda path: ARRAYS, lambda r, t: Shown(large))
    assert len(shown) == mistakes.CLASSIFIERS and left == 2
    assert sum(len(one.uri) for strip in shown for one in strip.mistakes) < mistakes.PAGE_BYTES + 2 * large
    assert "no more pictures" in shown[-1].missing and all(one.name for one in shown[-1].mistakes)
    without = {name: x for name, x in ARRAYS.items() if not name.endswith("confidence")}
    assert mistakes.strips(many, lambda path: without, lambda r, t: Shown()) == ([], 0)
    assert mistakes.strips(many, lambda path: ARRAYS, lambda r, t: Shown(), 0) == ([], 0)


def test_the_page_escapes_names_and_says_why_there_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    results.write(path, transfer(), {name: x[:6] for name, x in ARRAYS.items()})
    found = [(path, transfer())]
    text = build_page(found, runs=tmp_path, find=lambda r, t: Shown(0, "the images are <gone>"))
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;.png" in text
    assert "No pictures: the images are &lt;gone&gt;." in text
    assert "Most confidently wrong" not in build_page(found, runs=tmp_path)


def nearest(jpeg: bytes, files: Sequence[Path]) -> Path:
    """The file whose brightness a small picture has."""
    small = Image.open(io.BytesIO(jpeg)).convert("L")

    def apart(path: Path) -> float:
        whole = Image.open(path).convert("L").resize(small.size)
        return float(np.abs(np.asarray(small, dtype=float) - np.asarray(whole, dtype=float)).mean())

    return min(files, key=apart)


def test_pictures_are_those_of_the_test_images(image_tree: Callable[..., Path], tmp_path: Path) -> None:
    root, cache = image_tree({f"{part}/{name}": 3 for part in ("train", "test") for name in ("cat", "owl")}), tmp_path
    dataset = datasets.load(f"photos:imagefolder={root}")
    plan = SimpleNamespace(cache=cache, data=(f"photos:imagefolder={root}",), own=DataOptions(), limit=None, seed=0)
    remembered.remember([SimpleNamespace(job=SimpleNamespace(dataset=dataset), plan=plan)])  # type: ignore[list-item]
    result = dataclasses.replace(transfer(), data=ResultData(name="photos", fingerprint=dataset.fingerprint))
    target = dataset.test.labels
    found = thumbnails.Finder(cache=cache)(result, target)
    files = sorted(path for path in (root / "test").rglob("*") if path.is_file())
    assert found.missing == "" and list(found.classes) == ["cat", "owl"]
    for row, path in enumerate(files):
        assert found.name(row) == path.relative_to(root).as_posix()
        picture = found.thumbnail(row)
        assert picture is not None and nearest(picture, files) == path
    files[0].write_bytes(b"broken")
    assert found.thumbnail(0) is None
    other = thumbnails.Finder(cache=cache)(result, target[::-1])  # predictions of something else
    assert other.thumbnail(0) is None and "not where" in other.missing and other.name(0) == found.name(0)

    # A folder that has gone has names, but no pictures; --data says where it is now.
    write_image(files[0])
    root.rename(tmp_path / "elsewhere")
    gone = thumbnails.Finder(cache=cache)(result, target)
    assert "not where they were measured" in gone.missing and str(tmp_path) not in gone.missing
    assert gone.name(1) == found.name(1) and gone.thumbnail(1) is None
    told = thumbnails.Finder.of([f"photos:imagefolder={tmp_path / 'elsewhere'}"], cache)(result, target)
    assert told.missing == "" and told.thumbnail(1) is not None
    assert (
        "not of all test images"
        in thumbnails.Finder.of([f"photos:imagefolder={tmp_path / 'elsewhere'}"], cache)(result, target[1:]).missing
    )


@pytest.mark.slow
def test_the_commands_show_them(
    image_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    root = image_tree({f"{part}/{name}": 6 for part in ("train", "test") for name in ("cat", "dog", "owl")})
    assert cli.main(["run", "pixels:2", "--data", f"photos:imagefolder={root}", "--protocols", "transfer"]) == 0
    ((path, _),) = results.find(Path("runs"))
    arrays = results.read_predictions(path)
    wrong = mistakes.rows(arrays["target"], arrays["predicted"], arrays["predicted_confidence"], 4)
    assert cli.main(["report", "--wrong", "4"]) == 0
    text = Path("report.html").read_text(encoding="utf-8")
    strip = text[text.index('class="mistakes"') :]
    files = sorted(path for path in (root / "test").rglob("*") if path.is_file())
    names = re.findall(r"<small>(test/\w+/\S+?)</small>", strip)
    assert names == [files[row].relative_to(root).as_posix() for row in wrong] and len(names) == 4
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', strip)
    assert [nearest(base64.b64decode(one), files) for one in pictures] == [files[row] for row in wrong]
    assert str(root) not in text


def test_what_is_remembered_is_read_with_care(tmp_path: Path) -> None:
    path = remembered.path_of(tmp_path, "f" * 64)
    path.parent.mkdir()
    for text in ("", "[]", "{}", '{"data": 1, "options": {}, "limit": null, "seed": 0, "files": []}', '{"other": 1}'):
        path.write_text(text)
        assert remembered.recall(tmp_path, "f" * 64) is None
    images = thumbnails.Finder(cache=tmp_path)(transfer(), ARRAYS["target"])
    assert "not at hand" in images.missing and images.name(3) == "image 3" and images.thumbnail(3) is None
