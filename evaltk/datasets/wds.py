"""Your own images: WebDataset tar shards, read as tar files."""

from __future__ import annotations

from pathlib import Path

from evaltk.checkpoints import catalog
from evaltk.data import webdataset
from evaltk.data.images import Dataset
from evaltk.data.options import DataOptions
from evaltk.datasets import DatasetSpec


def load(root: Path, label: str = "wds", options: DataOptions | None = None) -> Dataset:
    """The dataset of the shards that `root` names. Raises: DataError, SettingsError: see `evaltk.data.webdataset`."""
    return webdataset.load(str(root), label, options or DataOptions(), indexes=catalog.home() / "shards")


DATASET = DatasetSpec(
    name="wds",
    where=webdataset.WHERE,
    load=load,
    takes="files",
    options=("label_column", "split", "show", "max_pixels"),
    doc=__doc__,
)
