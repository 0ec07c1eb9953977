"""Inputs of the few-shot tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evaltk import datasets
from evaltk.data.images import Dataset

Build = Callable[..., Path]


def dataset_of(root: Path) -> Dataset:
    return datasets.load(f"toy:imagefolder={root}")  # type: ignore[no-any-return]
