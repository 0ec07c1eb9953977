"""Images to learn from: what a folder, a zip and broken files give, in what order."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaltk.cli import main
from evaltk.errors import DataError, SettingsError
from pretrain import loop, recipe_names
from pretrain import recipe as recipes
from pretrain.data import loader as data
from pretrain.data import sources

SMALL = [
    "net.arch=vit_patch8_dim32_depth1_heads2_img32",
    "method.num_prototypes=16",
    "method.hidden=16",
    "method.bottleneck=8",
    "method.teacher_temp_warmup=0",
    "views.num_local=1",
    "optim.batch=4",
    "optim.epochs=1",
    "optim.warmup_epochs=0",
    "run.workers=0",
    "run.knn=0",
    "run.precision=fp32",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of six images of 40 to 51 px."""
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "photos" / "train" / ("a" if i < 6 else "b") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + i, 51 - i, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def spoil(folder: Path, *names: str) -> None:
    for name in names:
        path = next(folder.rglob(name))
        path.write_bytes(path.read_bytes()[:60])


def train(source: str, out: Path, *more: str) -> int:
    words = ["pretrain", "cifar10_dino_vmf", "--data", source, "--out", str(out), "--device", "cpu"]
    return main([*words, "--set", *SMALL, *more])


def in_folder(folder: Path) -> str:
    return f"folder={folder}"


def test_a_zip_gives_the_images_and_labels_of_its_folder(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder / "train"))
        archive.writestr("readme.txt", "not an image")
        archive.writestr("__MACOSX/a/._00.png", "not an image")
    zipped, plain = sources.open_source(f"zip={tmp_path / 'photos.zip'}"), sources.open_source(in_folder(folder))
    assert len(zipped) == len(plain) == 12
    assert zipped.labels is not None and zipped.labels.tolist() == [0] * 6 + [1] * 6
    for i in range(12):
        assert np.array_equal(np.asarray(zipped.open(i)), np.asarray(plain.open(i)))
    assert train(f"zip={tmp_path / 'photos.zip'}", tmp_path / "zip") == 0
    assert train(in_folder(folder), tmp_path / "folder") == 0
    one, other = (torch.load(tmp_path / d / "checkpoint.pth", weights_only=True) for d in ("zip", "folder"))
    assert all(torch.equal(one["teacher"][k], other["teacher"][k]) for k in one["teacher"])


def test_a_data_set_gives_its_training_images(folder: Path) -> None:
    shutil.copytree(folder / "train", folder / "val")
    found = sources.open_source(f"photos:imagefolder={folder}")
    assert len(found) == 12 and found.image_id(0).startswith("train/")


def test_an_image_in_a_zip_that_cannot_be_decoded_is_named(folder: Path, tmp_path: Path) -> None:
    spoil(folder, "07.png")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.name)
    source = sources.open_source(f"zip={tmp_path / 'photos.zip'}")
    assert source.labels is None  # no folders, no classes
    with pytest.raises(DataError, match=r"photos\.zip:07\.png"):
        source.open(7)


def test_corrupt_images_are_named_and_replaced_up_to_the_stated_number(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder, "03.png", "08.png")
    assert train(in_folder(folder), tmp_path / "run", "data.skip_bad_images=1") == 2
    said = capsys.readouterr().err
    assert "skip_bad_images" in said and ("03.png" in said or "08.png" in said)
    assert train(in_folder(folder), tmp_path / "again", "data.skip_bad_images=2") == 0
    said = capsys.readouterr().err
    assert "03.png" in said and "08.png" in said


def test_a_bad_image_is_replaced_by_the_next(folder: Path) -> None:
    spoil(folder, "03.png", "04.png")
    settings = recipes.load("cifar10_dino", SMALL).views
    source = sources.open_source(in_folder(folder))
    item = data.ViewDataset(source, settings, seed=0, masking=None, patch_size=8)[0, 3]
    assert item.index == 5
    assert [Path(name).name for name, _ in item.bad] == ["03.png", "04.png"]


@pytest.mark.parametrize(
    ("images", "said"),
    [(0, "image"), (1, "at least 4 images"), (3, "at least 4 images")],
)
def test_too_few_images_are_one_clear_line(
    images: int, said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(folder.rglob("*.png"))[images:]:
        path.unlink()
    assert train(in_folder(folder), tmp_path / "run") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoint.pth").exists()


def test_an_epoch_visits_each_image_once_and_processes_share_each_step() -> None:
    whole = list(data.Order(count=23, batch=6, seed=3).epoch(1))
    seen = [index for step in whole for _, index in step]
    assert len(whole) == 3 and len(seen) == len(set(seen)) == 18
    halves = [list(data.Order(count=23, batch=6, seed=3, rank=r, world=2).epoch(1)) for r in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    assert list(data.Order(count=23, batch=6, seed=3).epoch(1, start=2)) == whole[2:]
    assert list(data.Order(count=23, batch=6, seed=3).epoch(2)) != whole


def test_a_disk_that_fills_up_while_saving_leaves_the_last_good_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = torch.save, []

    def fails_the_third_time(tree, stream):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 3:
            stream.write(b"half of a check")
            raise OSError(28, "No space left on device")
        real(tree, stream)

    monkeypatch.setattr(torch, "save", fails_the_third_time)
    assert train(in_folder(folder), tmp_path / "run", "run.save_minutes=0", "run.disk_minutes=0") == 2
    assert "free some space" in capsys.readouterr().err
    monkeypatch.undo()
    tree = torch.load(tmp_path / "run" / "checkpoint.pth", weights_only=True)
    assert tree["progress"]["step"] == 2  # the second of three
    assert train(in_folder(folder), tmp_path / "run", "run.save_minutes=0") == 0
    assert torch.load(tmp_path / "run" / "checkpoint.pth", weights_only=True)["epoch"] == 1


def test_fewer_gpus_than_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from evaltk import distributed

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["pretrain", "digits_dino_vmf", "--device", "cuda"]) == 2
    assert "CUDA" in capsys.readouterr().err
    torchrun = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SettingsError, match="2 GPUs"), distributed.process_group("cuda:2"):
        pass


@pytest.mark.parametrize("name", recipe_names.names())
def test_every_recipe_loads_and_says_how_to_run_it(name: str) -> None:
    recipe = recipes.load(name)
    loop.check_view_sizes(recipe.views, loop.nets.parse(recipe.net.arch).patch_size)
    assert recipe.name == name
    path = Path(recipes.__file__).parent / "recipes" / f"{name}.toml"
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(name in line for line in head), "no command"
    assert any("k-NN" in line for line in head) and any("Machine" in line or "hour" in line for line in head)
