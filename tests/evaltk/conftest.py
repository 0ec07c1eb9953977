"""Fixtures of several files of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transfer_trees

from evaltk import build_backbone, datasets, load_checkpoint
from evaltk.data import images, transforms
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.models.backbone import Backbone
from evaltk.types import Recipe


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transfer data sets, one small tree each; not to be changed."""
    root = tmp_path_factory.mktemp("sets")
    for name, build in transfer_trees.BUILD.items():
        build(root / name)
    return root


@pytest.fixture
def tree(trees: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of them, to be changed."""
    return lambda name: Path(shutil.copytree(trees / name, tmp_path / name))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags that keep a run's files in the test's own folder."""
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    return ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """A tiny ViT."""
    return build_backbone(load_checkpoint("random:vit_patch4_dim32_depth2_heads2_img16"))


@pytest.fixture(scope="module")
def transform(backbone: Backbone) -> Transform:
    return transforms.view("eval", backbone.arch.img_size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def split() -> Split:
    """50 test images of digits."""
    whole = datasets.load("digits").test
    assert whole.pixels is not None
    return images.from_arrays("digits", "some", whole.pixels[:50], whole.labels[:50], whole.classes)


@pytest.fixture
def folder_split(image_tree: Callable[..., Path]) -> Callable[[], Split]:
    """Reads 3 + 4 images of two classes anew, as the next run would."""
    root = image_tree({"train/a": 3, "train/b": 4})
    return lambda: images.from_folder("data", "train", root, ["a", "b"], get="")


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that went through a net."""
    seen: list[int] = []
    real = Backbone.features

    def counted(self: Backbone, x: torch.Tensor, recipes: tuple[Recipe, ...]) -> list[torch.Tensor]:
        seen.append(len(x))
        return real(self, x, recipes)

    monkeypatch.setattr(Backbone, "features", counted)
    return seen
