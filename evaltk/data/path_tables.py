"""Tables of image paths and labels: CSV, TSV and parquet files."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaltk.data import images, own, parquet
from evaltk.data.images import Dataset, Split
from evaltk.data.options import DataOptions
from evaltk.data.own import Label, Part
from evaltk.errors import DataError, EvaltkError, some

SUFFIXES = (".csv", ".tsv", ".parquet")
WHERE = (
    "expected: PATH.csv, .tsv or .parquet with a column of paths, relative to it, and one of labels, and a column "
    "split (train, test) or --split 0.2; or TRAIN.csv,TEST.csv; or a folder of train.csv and test.csv"
)
MISSING = ("", "nan", "<na>")  # how empty cells are written


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as text: names of its columns, and the cells of each row with the line (or row) it starts at."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def cells(self, name: str) -> list[str]:
        """A column. Raises: DataError: an empty cell (its line is named)."""
        place = self.columns.index(name)
        found = [row[place] for row in self.rows]
        empty = [line for line, cell in zip(self.lines, found, strict=True) if cell.lower() in MISSING]
        if empty:
            got = f"{len(empty):,} empty or NaN, the first in line {empty[0]}"
            do = "fill them in, or remove these lines"
            raise DataError(wanted=f"a value in each row of {name!r}", got=got, where=self.path, do=do)
        return found


@dataclass(frozen=True, slots=True)
class Row:
    """An image: its absolute path, label and role, and the table and line that name it."""

    path: str
    label: Label
    role: str
    table: Path
    line: int


def load(text: str, label: str, options: DataOptions) -> Dataset:
    """The dataset of a table, of ``TRAIN,TEST``, or of a folder of tables called train and test.

    Raises: DataError: another layout, cells missing, files missing, a file listed twice.
    """
    files = find(text)
    rows = [row for role, path in files.items() for row in _rows(read(path), role, options)]
    _check_once(rows)
    first = next(iter(files.values()))
    root = _root(_folder(first), [row.path for row in rows])
    by_role: dict[str, list[Row]] = {}
    for row in rows:
        by_role.setdefault(row.role, []).append(row)
    parts = {
        role: Part(labels=[row.label for row in mine], split=_Files(label, root, tuple(r.path for r in mine), first))
        for role, mine in by_role.items()
    }
    return own.assemble(label, parts, options, where=text)


def find(text: str) -> dict[str, Path]:
    """{role: file}; the role of a single file is ``all``. Raises: DataError: no such file, or not what is expected."""
    named = [own.expanded(word) for word in own.words(text)]
    if len(named) == 2:
        files = dict(zip(("train", "test"), named, strict=True))
    elif len(named) == 1 and named[0].is_dir():
        there = {p: p.stem for p in sorted(named[0].iterdir()) if p.suffix.lower() in SUFFIXES}
        grouped = own.by_role(there, named[0])
        if not there or any(len(paths) > 1 for paths in grouped.values()):
            got = some([p.name for p in there], 4) or "none"
            raise DataError(wanted="one table per split: train.csv, test.csv", got=got, where=text, do=WHERE)
        files = {role: paths[0] for role, paths in grouped.items()}
    elif len(named) == 1:
        files = {"all": named[0]}
    else:
        raise DataError(wanted="FILE or TRAIN,TEST", got=f"{len(named)} files", where=text, do=WHERE)
    for path in files.values():
        if not path.is_file():
            got = "no such file" if not path.exists() else "a folder"
            raise DataError(wanted="a table of paths and labels", got=got, where=path, do=WHERE)
    return files


def read(path: Path) -> Table:
    """A table. Raises: DataError: no text, damaged, rows of other lengths, nothing in it. SettingsError: no pyarrow."""
    if path.suffix.lower() == ".parquet":
        columns, numbered = _parquet(path)
    else:
        columns, numbered = _text(path)
    if not numbered:
        raise DataError(wanted="rows below the names of the columns", got="none", where=path, do=WHERE)
    odd = next(((line, row) for line, row in numbered if len(row) != len(columns)), None)
    if odd:
        got = f"{len(odd[1])} cells in line {odd[0]}"
        do = "quote cells that hold the separator" if len(odd[1]) > len(columns) else "complete the line"
        raise DataError(wanted=f"{len(columns)} cells in each line", got=got, where=path, do=do)
    return Table(path=path, columns=columns, rows=tuple(r for _, r in numbered), lines=tuple(n for n, _ in numbered))


def _text(path: Path) -> tuple[tuple[str, ...], list[tuple[int, tuple[str, ...]]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        do = "save it as UTF-8 text"
        raise DataError(wanted="a table in UTF-8", got=str(error)[:120], where=path, do=do) from error
    header = text.partition("\n")[0]
    separators = [one for one in ("\t", ",", ";") if one in header]
    if path.suffix.lower() != ".tsv" and "," in separators:
        separators = [","]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=(separators or [","])[0], strict=True, skipinitialspace=True
    )
    numbered: list[tuple[int, tuple[str, ...]]] = []
    start = 1
    try:
        for row in reader:
            if row and any(cell.strip() for cell in row):
                numbered.append((start, tuple(cell.strip() for cell in row)))
            start = reader.line_num + 1
    except csv.Error as error:
        do = "fix the quotes in that line"
        raise DataError(wanted="a CSV or TSV file", got=f"line {start}: {error}", where=path, do=do) from error
    if not numbered:
        raise DataError(wanted="a table of paths and labels", got="an empty file", where=path, do=WHERE)
    return numbered[0][1], numbered[1:]


def _parquet(path: Path) -> tuple[tuple[str, ...], list[tuple[int, tuple[str, ...]]]]:
    try:
        with parquet.opened(path) as file:
            schema = file.schema_arrow
            plain = [
                field.name for field in schema if not str(field.type).startswith(("struct", "list", "binary", "map"))
            ]
            if len(plain) < 2:
                raise DataError(
                    wanted="columns of paths and labels",
                    got=f"{', '.join(f'{field.name} ({field.type})'[:40] for field in schema)}",
                    where=path,
                    do="for images inside the files use arrow=FOLDER",
                )
            columns = [map(_cell, file.read(columns=[name])[name].to_pylist()) for name in plain]
            rows = list(enumerate(zip(*columns, strict=True)))
    except EvaltkError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything; none of it is ours
        raise DataError(wanted="a parquet file", got=str(error)[:160], where=path, do="restore it") from error
    return tuple(plain), rows


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()


def _rows(table: Table, role: str, options: DataOptions) -> Iterator[Row]:
    where, columns = table.path, table.columns
    path = own.needed(columns, options.path_column, own.PATHS, flag="--path-column", what="paths", where=where)
    label = own.needed(columns, options.label_column, own.LABELS, flag="--label-column", what="labels", where=where)
    split = own.column(columns, options.split_column, own.SPLITS, flag="--split-column", what="splits", where=where)
    roles = [role] * len(table.rows) if split is None else own.roles_in(table.cells(split), where)
    means = {"all": tuple(own.ROLES), "test": ("test", "val")}.get(role, (role,))
    if other := [i for i, one in enumerate(roles) if one != role and one not in means]:
        got = f"{roles[other[0]]} in line {table.lines[other[0]]}"
        do = "give this file alone, or take the column out"
        raise DataError(wanted=f"{role} in all of {split!r}", got=got, where=where, do=do)
    folder = _folder(where)
    cells = zip(table.cells(path), _labels(table, label, roles), roles, table.lines, strict=True)
    for file, value, one, line in cells:
        of = one if role == "all" else role
        yield Row(_located(folder, file), value, of, where, line)


def _labels(table: Table, name: str, roles: Sequence[str]) -> list[Label]:
    """The labels, -1 for the rows of a test split that has none at all. Raises: DataError: empty cells elsewhere."""
    place = table.columns.index(name)
    test = [row[place].lower() for row, role in zip(table.rows, roles, strict=True) if role == "test"]
    if not test or any(cell not in (*MISSING, str(own.NONE)) for cell in test):
        return list(table.cells(name))
    kept = [i for i, role in enumerate(roles) if role != "test"]
    rest = replace(table, rows=tuple(table.rows[i] for i in kept), lines=tuple(table.lines[i] for i in kept))
    found = iter(rest.cells(name))
    return [own.NONE if role == "test" else next(found) for role in roles]


def _folder(table: Path) -> str:
    return os.path.normpath(table.parent.absolute())


def _located(folder: str, path: str) -> str:
    """The absolute path of a cell, without ``..``; backslashes are taken for slashes where no file has them."""
    if "\\" in path and not Path(folder, path).exists():
        path = path.replace("\\", "/")
    if path.startswith("~/"):
        path = str(own.expanded(path))
    return os.path.normpath(path if path.startswith(os.sep) else f"{folder}{os.sep}{path}")


def _check_once(rows: Sequence[Row]) -> None:
    seen: dict[str, Row] = {}
    for row in rows:
        if (other := seen.setdefault(row.path, row)) is not row:
            splits = f"twice in {row.role}" if other.role == row.role else f"in {other.role} and in {row.role}"
            lines = f"line {other.line} of {other.table.name}, line {row.line} of {row.table.name}"
            got = f"{Path(row.path).name} {splits} ({lines})"
            raise DataError(wanted="each image once", got=got, where=row.table, do="remove one of the lines")


def _root(folder: str, paths: Sequence[str]) -> Path:
    """The table's folder where all files are below it, else the deepest folder that the files share."""
    common = os.path.commonpath([path.rpartition(os.sep)[0] or os.sep for path in paths])
    return Path(folder if os.path.commonpath([folder, common]) == folder else common)


@dataclass(frozen=True, slots=True)
class _Files:
    """Makes a split of files."""

    dataset: str
    root: Path
    paths: tuple[str, ...]
    table: Path

    def __call__(self, name: str, classes: tuple[str, ...], ids: np.ndarray) -> Split:
        found: list[images.Found] = []
        missing: list[str] = []
        for path, label in zip(self.paths, ids.tolist(), strict=True):
            file = path.removeprefix(str(self.root)).lstrip(os.sep).replace(os.sep, "/")
            try:
                status = Path(path).stat()
            except (OSError, ValueError):  # no such file, or a name that no file can have
                missing.append(file)
                continue
            if stat.S_ISREG(status.st_mode):
                found.append((file, label, status.st_size, status.st_mtime_ns))
            else:
                missing.append(f"{file} (a folder)")
        if missing:
            self._raise(missing, name)
        return images.of_files(self.dataset, name, self.root, classes, found)

    def _raise(self, missing: Sequence[str], name: str) -> None:
        do = f"restore them or remove their lines; paths are relative to {self.table.parent}"
        if any(re.search(r"\w{2,}:/", path) for path in missing):
            do = "download them first: paths of files are wanted, not addresses"
        elif any(re.match(r"[A-Za-z]:[\\/]", path) for path in missing):
            do = "make the paths relative to the table, without the drive"
        got = f"{len(missing):,} missing: {some(list(missing), 3)}"
        raise DataError(wanted=f"the {len(self.paths):,} images of {name}", got=got, where=self.table, do=do)
