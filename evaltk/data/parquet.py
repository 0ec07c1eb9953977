"""Images in parquet files, as the Hugging Face hub publishes datasets. Needs the extra `parquet`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from evaltk import safe_json
from evaltk.data import listed, own
from evaltk.data.encoded import EncodedSplit
from evaltk.data.images import Dataset
from evaltk.data.options import DataOptions
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError, SettingsError

if TYPE_CHECKING:
    import pyarrow.parquet

ALSO = (
    "; or PATH/data/{train,validation,test}-*.parquet as the Hugging Face hub has them (pip install 'evaltk[parquet]')"
)
PREFIXES = {"train": ("train",), "val": ("validation", "valid", "val"), "test": ("test",)}
LABELS = ("label", "labels")
TAIL = 65_536  # bytes of each file's end that its fingerprint takes in; they say where everything else lies


class RowGroups:
    """Reads row groups of parquet files and remembers the last one."""

    def __init__(self) -> None:
        self._last: tuple[tuple[Path, int, str], list[bytes | None]] | None = None

    @property
    def num_rows(self) -> int:
        """Rows in memory."""
        return len(self._last[1]) if self._last else 0

    def read(self, path: Path, group: int, column: str) -> list[bytes | None]:
        """The images encoded in a column of a row group. Raises: DataError: the file is damaged."""
        key = (path, group, column)
        if self._last is None or self._last[0] != key:
            try:
                with opened(path) as file:
                    cells = file.read_row_group(group, columns=[column])[column]
                    _check_rows(len(cells), file.metadata.row_group(group).num_rows)
                encoded = [None if cell is None else cell["bytes"] for cell in cells.to_pylist()]
            except Exception as error:  # a damaged file can raise nearly anything; none of it is ours
                raise DataError(wanted="a parquet file", got=str(error)[:160], where=path, do="restore it") from error
            self._last = key, encoded
        return self._last[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParquetSplit(EncodedSplit):
    """Images encoded in a column of parquet files; an image's name is FILE#ROW.

    Attributes:
        column: with the field ``bytes``. groups: (file, row group) of each run of rows, `starts` [G] the first row.
        rows: [N] int64, the images' rows counted through all groups; None: all rows, in their order.
        reader: of the runs; each process remembers the last it has read, as images are asked for in order.
    """

    column: str
    groups: tuple[tuple[str, int], ...]
    starts: np.ndarray
    reader: RowGroups
    rows: np.ndarray | None = None

    def taken(self, rows: np.ndarray, *, name: str, fingerprint: str) -> Self:
        """The images at `rows` [n] int64, in that order, as a split of its own."""
        # Parts once held the images of other rows: features cached of those must not be taken for these.
        fingerprint = hashlib.sha256(f"{fingerprint}\0rows of parquet".encode()).hexdigest()
        part = super(ParquetSplit, self).taken(rows, name=name, fingerprint=fingerprint)
        return replace(part, rows=rows if self.rows is None else self.rows[rows])

    def encoded(self, index: int) -> bytes:
        """The image file's bytes. Raises: DataError: none in that row, or the parquet file is damaged."""
        row = index if self.rows is None else int(self.rows[index])
        run = int(np.searchsorted(self.starts, row, side="right")) - 1
        name, group = self.groups[run]
        data = self.reader.read((self.root or Path()) / name, group, self.column)[row - int(self.starts[run])]
        if not data:
            got, where = "nothing", f"{self.root}/{self.image_id(index)}"
            raise DataError(wanted="an encoded image", got=got, where=where, do="restore it, or --skip-bad-images N")
        return data


def find(root: Path) -> Path | None:
    """The folder of ``train-*.parquet``, `root` or `root`/data; None where there is none."""
    return next((folder for folder in (root, root / "data") if _files(folder, "train")), None)


def dataset(label: str, folder: Path, official: listed.Official, *, labels: Sequence[str] = LABELS) -> Dataset:
    """The dataset in a folder's ``train-*``, ``validation-*`` and ``test-*`` files.

    Where there is no test-*, images are tested on that stand in validation-*, as Food-101's do on the hub.

    Args:
        labels: columns that may hold the class; the first that is there does.

    Raises: DataError: no test images, a column missing, a row without label. SettingsError: no pyarrow.
    """
    files = {split: names for split in PREFIXES if (names := _files(folder, split))}
    if "test" not in files and "val" in files:
        files["test"] = files.pop("val")
    if "test" not in files:
        do = f"restore the files; {official.where}"
        raise DataError(wanted="test-*.parquet", got="no such file", where=folder, do=do)
    if "val" in files and "val" not in official.counts:
        raise DataError(
            wanted=f"train and test files, {official.title} has no official validation split",
            got=files["val"][0],
            where=folder,
            do="put it elsewhere, or take another copy",
        )
    tables = {split: [_Table.read(folder, name, labels) for name in names] for split, names in files.items()}
    everything = [table for part in tables.values() for table in part]
    if len(columns := sorted({table.column for table in everything})) > 1:
        do = "take another copy"
        raise DataError(wanted="images in one column", got=", ".join(columns), where=folder, do=do)
    classes = _classes(everything, folder)
    counts = {split: sum(len(t.labels) for t in part) for split, part in tables.items()}
    name = "trainval" if "val" in tables else "train"
    training = [*tables["train"], *tables.get("val", ())]
    val = np.arange(counts["train"] + counts.get("val", 0)) >= counts["train"] if "val" in tables else None
    unverified = f"images from parquet files; whether they are the official ones of {official.title} cannot be told"
    return Dataset(
        name=label,
        train=_split(label, name, folder, training, classes),
        test=_split(label, "test", folder, tables["test"], classes),
        val=val,
        metric=official.metric,
        deviations=(
            Deviation(kind=DeviationKind.UNVERIFIED_IMAGES, text=unverified),
            *listed.differences(official, counts, len(classes)),
        ),
    )


def own_dataset(label: str, folder: Path, options: DataOptions) -> Dataset:
    """The dataset in a folder of parquet files of the user's own, in the hub's layout or a single set to be split.

    Raises: DataError, SettingsError: as `dataset`, and as `own.assemble`.
    """
    files = {role: names for role in PREFIXES if (names := _files(folder, role))}
    files = files or {"all": sorted(path.name for path in folder.glob("*.parquet"))}
    wanted = (options.label_column,) if options.label_column else LABELS
    do = "name the columns: --path-column, --label-column"
    tables = {
        role: [_Table.read(folder, name, wanted, options.path_column, do) for name in names]
        for role, names in files.items()
    }
    everything = [table for part in tables.values() for table in part]
    if len({table.column for table in everything}) > 1 or len({table.names for table in everything}) > 1:
        do = "take another copy"
        raise DataError(wanted="the same columns and classes in each file", got="others", where=folder, do=do)
    own.check_alike({role: [table.labels for table in part] for role, part in tables.items()}, folder)
    for table in everything:
        if odd := [
            one for one in map(own.whole, table.labels) if isinstance(one, bool) or not isinstance(one, int | str)
        ]:
            got = f"{odd[0]!r} in {table.name}"
            raise DataError(wanted="labels that are whole numbers or text", got=got, where=folder, do=do)
    parts = {
        role: own.Part(
            labels=[own.whole(one) for table in part for one in table.labels],
            split=partial(_own_split, label, folder, part),
        )
        for role, part in tables.items()
    }
    return own.assemble(label, parts, options, where=folder, names=everything[0].names or None)


def _own_split(
    label: str, folder: Path, tables: Sequence[_Table], name: str, classes: tuple[str, ...], ids: np.ndarray
) -> ParquetSplit:
    return _labelled(label, name, folder, tables, classes, ids)


def _files(folder: Path, split: str) -> list[str]:
    found: list[str] = []
    for prefix in PREFIXES[split]:
        found = found or sorted(p.name for ends in ("-*", "") for p in folder.glob(f"{prefix}{ends}.parquet"))
    return found


def opened(path: Path) -> pyarrow.parquet.ParquetFile:
    """A parquet file. Raises: SettingsError: pyarrow is not installed."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        do = "pip install 'evaltk[parquet]'"
        raise SettingsError(wanted="pyarrow to read parquet", got="no such package", where=path, do=do) from error
    return pq.ParquetFile(path)


def _check_rows(found: int, stated: int) -> None:
    """Or images would be paired with labels of others. Raises: ValueError."""
    if found != stated:
        raise ValueError(f"{found:,} rows where its metadata states {stated:,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """One file: its image column, rows of each row group, labels (numbers or names), and names of the numbers."""

    name: str
    column: str
    rows: tuple[int, ...]
    labels: tuple[Any, ...]
    names: tuple[str, ...]

    @staticmethod
    def read(
        folder: Path, name: str, wanted: Sequence[str], image: str | None = None, do: str = "take a copy with labels"
    ) -> _Table:
        path = folder / name
        try:
            with opened(path) as file:
                schema = file.schema_arrow
                columns = [f.name for f in schema if str(f.type).startswith("struct") and "bytes" in _fields(f.type)]
                columns = [one for one in columns if image in (None, one)]
                label = next((one for one in wanted if one in schema.names), None)
                labels = () if label is None else tuple(file.read(columns=[label])[label].to_pylist())
                labels = (own.NONE,) * len(labels) if own.bare(labels) else labels
                rows = tuple(file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups))
                _check_rows(len(labels), sum(rows) if label else 0)
                names = _names_in(schema.metadata or {}, label or "")
        except SettingsError:
            raise
        except Exception as error:  # a damaged file can raise nearly anything; none of it is ours
            raise DataError(wanted="a parquet file", got=str(error)[:160], where=path, do="restore it") from error
        if len(columns) != 1 or label is None or None in labels:
            got = f"columns {', '.join(schema.names[:8])}" + (", rows without label" if None in labels else "")
            says = f"one column of encoded images and the labels in one called {' or '.join(wanted)}"
            raise DataError(wanted=says, got=got, where=path, do=do)
        return _Table(name=name, column=columns[0], rows=rows, labels=labels, names=names)


def _fields(kind: Any) -> list[str]:
    return [kind.field(i).name for i in range(kind.num_fields)]


def _names_in(metadata: Mapping[bytes, bytes], label: str) -> tuple[str, ...]:
    """Names of the classes, as the hub's metadata give them; () where they do not."""
    try:
        found = safe_json.parse(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _classes(tables: Sequence[_Table], folder: Path) -> tuple[str, ...]:
    """The classes in order: as named in the files, else the labels that occur, sorted."""
    kinds = {type(label) for table in tables for label in table.labels}
    if kinds == {str}:
        return tuple(sorted({label for table in tables for label in table.labels}))
    names = {table.names for table in tables}
    if kinds != {int} or len(names) > 1:
        got = (
            "class names that differ between files" if kinds == {int} else ", ".join(sorted(k.__name__ for k in kinds))
        )
        raise DataError(
            wanted="labels that are all numbers or all names", got=got, where=folder, do="take another copy"
        )
    low, high = (f({label for table in tables for label in table.labels}) for f in (min, max))
    known = names.pop() or tuple(f"{i:03d}" for i in range(high + 1))
    if low < 0 or high >= len(known):
        got = f"labels {low} to {high}"
        raise DataError(wanted=f"labels 0 to {len(known) - 1}", got=got, where=folder, do="take a copy with labels")
    return known


def _split(dataset: str, name: str, folder: Path, tables: Sequence[_Table], classes: tuple[str, ...]) -> ParquetSplit:
    number: dict[Any, int] = {cls: i for i, cls in enumerate(classes)} | {i: i for i in range(len(classes))}
    labels = np.array([number[label] for table in tables for label in table.labels], dtype=np.int64)
    return _labelled(dataset, name, folder, tables, classes, labels)


def _labelled(
    dataset: str, name: str, folder: Path, tables: Sequence[_Table], classes: tuple[str, ...], labels: np.ndarray
) -> ParquetSplit:
    prints, stamps = hashlib.sha256("\0".join(classes).encode()), hashlib.sha256()
    prints.update(labels.tobytes())
    for table in tables:
        stat = (folder / table.name).stat()
        prints.update(f"{table.name}\0{stat.st_size}\n".encode())
        stamps.update(stat.st_mtime_ns.to_bytes(16, "big", signed=True))
        with (folder / table.name).open("rb") as stream:
            stream.seek(max(0, stat.st_size - TAIL))
            prints.update(stream.read())
    rows = [count for table in tables for count in table.rows]
    return ParquetSplit(
        dataset=dataset,
        name=name,
        classes=classes,
        labels=labels,
        fingerprint=prints.hexdigest(),
        stamp=stamps.hexdigest(),
        root=folder,
        files=[f"{table.name}#{row}" for table in tables for row in range(len(table.labels))],
        column=tables[0].column,
        groups=tuple((table.name, group) for table in tables for group in range(len(table.rows))),
        starts=np.cumsum([0, *rows])[:-1],
        reader=RowGroups(),
    )
