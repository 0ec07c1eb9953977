"""What several test files share: folders of small images."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Nets here are tiny: a second thread costs more than it brings, and on a busy machine it costs everything. Set before
# torch is imported, and passed on to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def write_image(path: Path, size: tuple[int, int] = (20, 16)) -> None:
    """Noise that the path's last three parts decide, so that a tree made twice holds the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32("/".join(path.parts[-3:]).encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)


@pytest.fixture
def image_tree(tmp_path: Path) -> Callable[..., Path]:
    """`build({"train/cat": 3, ...})`: a folder with so many images in each of its folders."""

    def build(folders: Mapping[str, int], *, name: str = "data", form: str = "png") -> Path:
        for folder, count in folders.items():
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                write_image(tmp_path / name / folder / f"{number:03d}.{form}")
        return tmp_path / name

    return build
