"""Lists of labelled images for few-shot: MSN's, and one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from fewshot_inputs import Build, dataset_of

from evaltk.data.images import Dataset
from evaltk.deviations import DeviationKind
from evaltk.errors import DataError
from protocols import fewshot
from protocols.fewshot import shots
from reports import layouts
from reports.published.load import find_published

WNIDS = ("n01440764", "n01443537", "n02007558")


@pytest.fixture
def imagenet_like(image_tree: Build) -> Dataset:
    """Three classes of eight images that are named as ImageNet's are: nXXXXXXXX_N.JPEG."""
    root = image_tree({f"{part}/{w}": n for part, n in (("train", 8), ("val", 2)) for w in WNIDS}, form="JPEG")
    for path in sorted((root / "train").rglob("*.JPEG")):
        path.rename(path.with_name(f"{path.parent.name}_{int(path.stem)}.JPEG"))
    return dataset_of(root)


def names(per_class: int, start: int = 0) -> str:
    return "".join(f"{w}_{start + i}.JPEG\n" for i in range(per_class) for w in reversed(WNIDS))


def msn_lists(root: Path, changes: Mapping[str, str] | None = None) -> Path:
    """Three folders of lists, with the third's misnamed file, some changed."""
    made = {f"subsets{s}/{k}imgs_class.txt": names(k, s) for s in (1, 2, 3) for k in (1, 2)}
    made |= {"subsets1/5imgs_class.txt": names(5), "subsets2/5imgs_class.txt": names(5, 2)}
    made |= {"subsets3/3imgs_class.txt": names(5, 3), "subsets1/1percent.txt": names(6) + f"{WNIDS[0]}_7.JPEG\r\n\n"}
    for path, text in (made | (dict(changes) if changes else {})).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, newline="")
    return root


def test_lists_are_read_by_what_they_hold(imagenet_like: Dataset, tmp_path: Path) -> None:
    root = msn_lists(tmp_path / "lists")
    settings = fewshot.Settings(lists=str(root))
    fewshot.check(imagenet_like, settings)
    train = imagenet_like.train
    chosen = fewshot.choose(train, settings, 0)
    found = {(s.per_class, s.split): [train.image_id(r) for r in s.rows] for s in chosen.shots}
    assert set(found) == {(k, s) for k in (1, 2, 5) for s in (1, 2, 3)} | {("1 %", 1)}
    for (k, split), ids in found.items():
        start, count = (0, 6) if k == "1 %" else (split if k != 5 else {1: 0, 2: 2, 3: 3}[split], k)
        wanted = {f"train/{w}/{w}_{start + i}.JPEG" for w in WNIDS for i in range(int(count))}
        assert set(ids) == wanted | ({f"train/{WNIDS[0]}/{WNIDS[0]}_7.JPEG"} if k == "1 %" else set())
    assert chosen.notes == ("subsets3/3imgs_class.txt has 5 images per class, not 3, and counts as such",)
    assert [s.split for s in fewshot.choose(train, fewshot.Settings(lists=str(root), shots=(2,), percent=0), 0).shots]
    (root / "subsets1" / "1percent.txt").unlink()
    assert fewshot.choose(train, settings, 0).notes[-1] == "no list of 1 % of the images: left out"
    alone = fewshot.Settings(lists=str(root / "subsets2"))
    assert {s.split for s in fewshot.choose(train, alone, 0).shots} == {1}


def test_other_lists_in_the_same_place_make_another_result(imagenet_like: Dataset, tmp_path: Path) -> None:
    root = str(msn_lists(tmp_path / "lists"))
    before, same = fewshot.Settings(lists=root), fewshot.Settings(lists=root)
    msn_lists(tmp_path / "lists", {"subsets2/1imgs_class.txt": names(1, 5)})
    assert before == same != fewshot.Settings(lists=root)
    assert len(before.lists_sha256 or "") == 64 and fewshot.Settings().lists_sha256 is None
    assert fewshot.Settings(lists=root, lists_sha256=fewshot.Settings(lists=root).lists_sha256).lists == root
    with pytest.raises(DataError, match=f"wanted lists of sha256 {before.lists_sha256}"):
        fewshot.Settings(lists=root, lists_sha256=before.lists_sha256)


def test_msns_own_lists_are_known_by_their_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = fewshot.Settings(lists=str(msn_lists(tmp_path / "lists")))
    assert (given.images(), fewshot.Settings().images()) == ("lists", "drawn")
    monkeypatch.setattr(fewshot.protocol, "MSN_LISTS", given.lists_sha256)
    assert given.images() == "MSN's lists"


@pytest.mark.parametrize(("shots_", "value"), [(1, 38.9), (2, 48.9), (5, 58.5), ("1 %", 64.5)])
def test_published_twins(shots_: int | str, value: float) -> None:
    (extra,) = [e for e in layouts.load("fewshot").extra if e.hidden and e.at["shots"] == shots_]
    assert extra.at["images"] == "MSN's lists" and extra.at["penalty"] == fewshot.Settings().penalty[0]
    row = find_published(
        task=extra.published["task"],
        dataset="ImageNet-1K",
        metric=extra.published["metric"],
        arch="ViT-S/16",
        method="DINO",
        variant=extra.published["variant"],
    )
    assert row is not None and row.value == value


def test_how_the_images_were_selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = fewshot.Settings(lists=str(msn_lists(tmp_path / "lists")))
    (drawn,), (other,) = fewshot.protocol.selection(fewshot.Settings(), 3), fewshot.protocol.selection(listed, 3)
    assert drawn.kind is DeviationKind.OWN_DRAWS and "seed 3" in drawn.text
    assert other.kind is DeviationKind.OTHER_LISTS and str(listed.lists_sha256)[:12] in other.text
    monkeypatch.setattr(fewshot.protocol, "MSN_LISTS", listed.lists_sha256)
    assert fewshot.protocol.selection(listed, 3) == ()


def test_lists_by_class_and_name(image_tree: Build, tmp_path: Path) -> None:
    train = dataset_of(image_tree({"train/a": 3, "train/b": 3, "test/a": 1})).train
    (tmp_path / "1imgs_class.txt").write_text("b/001.png\ntrain/a/002.png\n")
    (found,) = shots.read(tmp_path, train, per_class=(1,), percent=0).shots
    assert [train.image_id(r) for r in found.rows] == ["train/a/002.png", "train/b/001.png"]
    (tmp_path / "1imgs_class.txt").write_text("001.png\n")
    with pytest.raises(DataError, match=r"several images; write CLASS/NAME: 1, 001\.png"):
        shots.read(tmp_path, train, per_class=(1,), percent=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subsets2/2imgs_class.txt": names(2) + "n01440764_99.JPEG\n"}, "not there: 1, n01440764_99.JPEG"),
        ({"subsets2/2imgs_class.txt": names(2).replace("n02007558", WNIDS[0])}, "repeated: 2, n01440764_0.JPEG"),
        ({"subsets2/2imgs_class.txt": names(2)[: 17 * 2]}, "classes without any: 1, n01440764"),
        ({"subsets2/2imgs_class.txt": names(2) + f"{WNIDS[1]}_5.JPEG\n"}, f"another number: 1, {WNIDS[1]} (3)"),
        ({"subsets2/1imgs_class.txt": names(1) + f"train/{WNIDS[1]}/{WNIDS[1]}_0.JPEG\n"}, "twice: 1"),
        ({"subsets1/1percent.txt": "\n"}, "classes without any: 3"),
        ({"subsets3/5imgs_class.txt": names(5)}, "3imgs_class.txt and 5imgs_class.txt"),
        ({"subsets2/2imgs_class.txt": "\0"}, "not there: 1"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit(imagenet_like: Dataset, tmp_path: Path, changes: dict[str, str], words: str) -> None:
    settings = fewshot.Settings(lists=str(msn_lists(tmp_path / "lists", changes)))
    with pytest.raises(DataError) as caught:
        fewshot.check(imagenet_like, settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(tmp_path / "lists") in str(caught.value)


def test_lists_that_are_not_there(imagenet_like: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        fewshot.Settings(lists=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="image lists; got lists; where"):
        (tmp_path / "odd" / "lists").mkdir(parents=True)
        fewshot.Settings(lists=str(tmp_path / "odd"))
    root = str(msn_lists(tmp_path / "lists"))
    with pytest.raises(DataError, match="none of 3") as caught:
        fewshot.check(imagenet_like, fewshot.Settings(lists=root, shots=(1, 3)))
    assert "--fewshot.shots 1" in str(caught.value)
    (tmp_path / "lists" / "subsets1" / "1imgs_class.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="a list of image names"):
        fewshot.Settings(lists=root)


def test_an_image_in_the_folder_of_another_class(imagenet_like: Dataset, tmp_path: Path) -> None:
    root = imagenet_like.train.root
    assert root is not None
    moved = root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    moved.rename(root / "train" / WNIDS[1] / moved.name)
    with pytest.raises(DataError, match="images in the folder of their class"):
        fewshot.check(dataset_of(root), fewshot.Settings(lists=str(msn_lists(tmp_path / "lists"))))
