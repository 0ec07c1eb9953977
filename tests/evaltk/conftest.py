"""Fixtures of several files of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transfer_trees


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
