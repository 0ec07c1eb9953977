"""Your own images: a Hugging Face dataset as `save_to_disk` or the hub has it, or other Arrow files of images."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import arrow
from evaltk.data.images import Dataset
from evaltk.data.options import DataOptions
from evaltk.datasets import DatasetSpec


def load(root: Path, label: str = "arrow", options: DataOptions | None = None) -> Dataset:
    """The dataset of the Arrow files that `root` names. Raises: DataError, SettingsError: see `evaltk.data.arrow`."""
    return arrow.load(str(root), label, options or DataOptions())


DATASET = DatasetSpec(
    name="arrow",
    where=arrow.WHERE,
    load=load,
    takes="files",
    options=("path_column", "label_column", "split", "show", "max_pixels"),
    doc=__doc__,
)
