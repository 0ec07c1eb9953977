"""Shared by the subjects of `evaltk score`: reading arrays, printing tables and differences."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evaltk import safe_arrays, safe_json
from evaltk.errors import DataError
from reports.table import Cell, Table

EXACT = 2.0**53  # up to which float64 holds whole numbers


def read_array(path: Path, name: str) -> np.ndarray:
    """An array of numbers from .npy, .npz (its entry `name`, or its only one) or .json. Raises: DataError."""
    try:
        return _read(path, name)
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else str(error)[:120] or type(error).__name__
        do = "save it with numpy.save" if path.is_file() else "check the path"
        raise DataError(wanted=f"an array `{name}` as .npy, .npz or .json", got=got, where=path, do=do) from error


def _read(path: Path, name: str) -> np.ndarray:
    if path.suffix == ".json":
        found = np.asarray(safe_json.read(path))
    elif path.suffix == ".npz":
        arrays = safe_arrays.read_npz(path)
        if name not in arrays and len(arrays) != 1:
            raise ValueError(f"arrays called {', '.join(sorted(arrays))}" if arrays else "no arrays")
        found = arrays[name] if name in arrays else next(iter(arrays.values()))
    else:
        found = safe_arrays.read_npy(path)
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{found.dtype} instead of numbers")
    return found


def read_features(path: Path) -> np.ndarray:
    """Features [N, D], float32 or (from wider files) float64, within float32's range, N and D at least 1.

    Raises: DataError.
    """
    x = read_array(path, "x")
    if x.ndim != 2 or x.dtype.kind == "b" or 0 in x.shape:
        do = "save one row of features per image"
        raise DataError(wanted="features [N, D]", got=f"{x.dtype} {list(x.shape)}", where=path, do=do)
    narrow = x.dtype.kind == "f" and x.dtype.itemsize <= 4
    x = np.ascontiguousarray(x, dtype=np.float32 if narrow else np.float64)
    bad = np.flatnonzero(~(np.abs(x) <= np.finfo(np.float32).max).all(axis=1))
    if len(bad):
        got = f"NaN or infinity in {len(bad)} rows, the first of them {bad[0]}"
        raise DataError(wanted="finite features", got=got, where=path, do="look at the net that made them")
    return x


def read_labels(path: Path, features: np.ndarray, of: Path) -> np.ndarray:
    """Class ids [N] int64, one per row of `features`, which are those of the file `of`. Raises: DataError."""
    y = read_array(path, "y")
    if y.shape == (len(features), 1):  # as MATLAB has columns
        y = y[:, 0]
    if y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.floor(y)).all() and (np.abs(y) <= EXACT).all():
        y = y.astype(np.int64)
    if y.shape != (len(features),) or y.dtype.kind not in "iu":
        got = f"{y.dtype} {list(y.shape)}"
        do = f"save one label per row of {of.name}"
        raise DataError(wanted=f"integer labels [{len(features)}]", got=got, where=path, do=do)
    if y.min() < 0 or y.max() > np.iinfo(np.int64).max:
        got = str(y.min() if y.min() < 0 else y.max())
        raise DataError(wanted="class ids from 0 to 2^63 - 1", got=got, where=path, do="number classes from 0")
    return y.astype(np.int64)


def check_features(bank: np.ndarray, queries: np.ndarray, where: tuple[Path, Path]) -> tuple[str, ...]:
    """Check that features are not all the same. Returns: a note where many queries are rows of the bank.

    Raises: DataError.
    """
    from evaltk.data import overlap, sanity

    for x, path in zip((bank, queries), where, strict=True):
        sanity.check_varied(x, str(path))
    rows = {row.tobytes() for row in bank}
    shared = sum(row.tobytes() in rows for row in queries.astype(bank.dtype))
    if shared <= overlap.MOST * len(queries):
        return ()
    return (f"{shared:,} of {len(queries):,} queries are rows of {where[0].name} too: are they the same images?",)


def check_learnt(labels: np.ndarray, wanted: np.ndarray, where: Path) -> None:
    """Check that there are two classes, and that each query's class is among them. Raises: DataError."""
    if len(known := np.unique(labels)) < 2:
        do = "add features of other classes"
        raise DataError(wanted="labels of two classes or more", got="a single class", where=where, do=do)
    if len(lacking := np.setdiff1d(wanted, known)):
        raise DataError(
            wanted="labels of the queries' classes",
            got=f"none of class {lacking[0]}" + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""),
            where=where,
            do="number the classes of both files alike, or leave these queries out",
        )


def numbered(labels: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids [C] that occur in either, ascending; `labels` and `others` as places among them).

    Ids may start at 1, have gaps, or be large: only their order matters.
    """
    ids = np.union1d(labels, others)
    return ids, np.searchsorted(ids, labels), np.searchsorted(ids, others)


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
