"""Shared by the subjects of `evaltk score`: reading arrays, printing tables and differences."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evaltk.errors import DataError
from reports.table import Cell, Table


def read_array(path: Path, name: str) -> np.ndarray:
    """An array from .npy, .npz (its entry `name`, or its only one) or .json. Raises: DataError."""
    try:
        if path.suffix == ".json":
            return np.asarray(json.loads(path.read_text(encoding="utf-8")))
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            names = list(found)
            return found[name if name in names or len(names) != 1 else names[0]]
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(
            wanted=f"an array `{name}` as .npy, .npz or .json",
            got=f"{type(error).__name__}: {error}"[:160],
            where=path,
            do="check the path and format",
        ) from error


def show(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[float]], notes: Sequence[str] = ()) -> None:
    """Print a table of fractions, shown in percent; NaN is empty."""
    show_table(
        Table(
            title=title,
            columns=tuple(columns),
            rows=tuple(
                (label, tuple(Cell(value=None if np.isnan(v) else float(v)) for v in values))
                for label, values in rows.items()
            ),
            footnotes=tuple(notes),
        )
    )


def show_table(table: Table) -> None:
    """Print a table as Markdown."""
    from reports.formats import render

    sys.stdout.write(render.render(table, "md"))


def show_difference(largest: float) -> None:
    """Print the largest difference from the official numbers."""
    print(f"official code: largest difference {largest:.3g}", file=sys.stderr)


def defined(values: np.ndarray) -> list[float | None]:
    """A list for JSON, where NaN is null."""
    return [None if np.isnan(v) else float(v) for v in values]
