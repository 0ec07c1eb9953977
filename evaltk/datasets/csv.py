"""Your own images: a CSV, TSV or parquet file of paths and labels."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import path_tables
from evaltk.data.images import Dataset
from evaltk.data.options import DataOptions
from evaltk.datasets import DatasetSpec


def load(root: Path, label: str = "csv", options: DataOptions | None = None) -> Dataset:
    """The dataset of the table that `root` names. Raises: DataError, SettingsError: see `evaltk.data.path_tables`."""
    return path_tables.load(str(root), label, options or DataOptions())


DATASET = DatasetSpec(
    name="csv",
    where=path_tables.WHERE,
    load=load,
    takes="files",
    options=("path_column", "label_column", "split_column", "split", "show", "max_pixels"),
    doc=__doc__,
)
