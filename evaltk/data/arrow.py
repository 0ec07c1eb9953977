"""Hugging Face datasets saved to disk (`save_to_disk`), and Arrow or parquet files of images. Needs pyarrow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaltk import safe_json
from evaltk.data import encoded, own, parquet
from evaltk.data.encoded import EncodedSplit
from evaltk.data.images import Dataset
from evaltk.data.options import DataOptions
from evaltk.data.own import Label, Part
from evaltk.errors import DataError, EvaltkError, SettingsError, some

if TYPE_CHECKING:
    import pyarrow as pa

WHERE = (
    "expected: PATH, a folder written by save_to_disk of Hugging Face's datasets, or PATH.arrow, or a folder of "
    "NAME-train.arrow and NAME-test.arrow, or of train-*.parquet and test-*.parquet as the hub has them"
)
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of a whole stream
FILE = b"ARROW1"  # begins and ends the other format of Arrow files
NUMBERED = re.compile(r"(.*)-(\d+)-of-(\d+)\.arrow")


def load(text: str, label: str, options: DataOptions) -> Dataset:
    """The dataset in Arrow files. Raises: DataError: another layout, a damaged file. SettingsError: no pyarrow."""
    if (folder := _parquet(own.expanded(text))) is not None:
        return parquet.own_dataset(label, folder, options)
    files = find(text)
    own.check_once(files, text)
    tables = {role: [_Table.read(path, options) for path in paths] for role, paths in files.items()}
    everything = [table for part in tables.values() for table in part]
    if len(columns := sorted({table.column for table in everything})) > 1:
        do = "give them apart, or --path-column"
        raise DataError(wanted="images in one column", got=", ".join(columns), where=text, do=do)
    own.check_alike({role: [table.labels for table in part] for role, part in tables.items()}, text)
    names = {table.names for table in everything}
    if len(names) > 1:
        got, do = "class names that differ between files", "save them with the same features"
        raise DataError(wanted="the same classes in each file", got=got, where=text, do=do)
    root = own.expanded(text)
    root = root if root.is_dir() else everything[0].path.parent
    parts = {
        role: Part(labels=[one for table in part for one in table.labels], split=_Rows(label, root, tuple(part)).split)
        for role, part in tables.items()
    }
    return own.assemble(label, parts, options, where=text, names=names.pop() or None)


def _parquet(root: Path) -> Path | None:
    """The folder of parquet files where there are no Arrow files: `root` or, as on the hub, `root`/data."""
    if not root.is_dir() or (root / "dataset_dict.json").exists() or any(root.glob("*.arrow")):
        return None
    return next((folder for folder in (root, root / "data") if any(folder.glob("*.parquet"))), None)


def find(text: str) -> dict[str, list[Path]]:
    """{role: Arrow files in order}; the role is ``all`` where nothing tells it. Raises: DataError."""
    named = [own.expanded(word) for word in own.words(text)]
    if len(named) == 2:
        return {role: _saved(path) for role, path in zip(("train", "test"), named, strict=True)}
    if len(named) != 1:
        raise DataError(wanted="FOLDER or TRAIN,TEST", got=f"{len(named)} names", where=text, do=WHERE)
    root = named[0]
    if (root / "dataset_dict.json").is_file():
        splits = _json(root / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not all(isinstance(s, str) and Path(s).name == s for s in splits):
            where = root / "dataset_dict.json"
            raise DataError(wanted='{"splits": [names]}', got=repr(splits)[:80], where=where, do="save it again")
        known = {
            own.ROLE_OF.get(name.lower(), ""): _saved(root / name) for name in splits if name.lower() in own.ROLE_OF
        }
        if not known:
            got = some(splits, 5) or "none"
            raise DataError(wanted="splits called train, validation or test", got=got, where=root, do=own.NO_SPLIT)
        return known
    if root.is_dir() and not (root / "state.json").is_file():
        there = _complete(sorted(root.glob("*.arrow")), root)
        if not there:
            got = some(sorted(p.name for p in root.iterdir()), 6) or "an empty folder"
            raise DataError(wanted="Arrow files", got=got, where=root, do=WHERE)
        return own.by_role({path: NUMBERED.sub(r"\1", path.name.removesuffix(".arrow")) for path in there}, root)
    return {"all": _saved(root)}


def _saved(path: Path) -> list[Path]:
    """The files of one saved split, as state.json lists them; of a folder without it, all; a file itself."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(wanted="a folder or an Arrow file", got="no such file", where=path, do=WHERE)
    if not (path / "state.json").is_file():
        files = _complete(sorted(path.glob("*.arrow")), path)
    else:
        state = _json(path / "state.json")
        if state.get("_indices_data_files"):
            do = "save it again after dataset.flatten_indices()"
            raise DataError(wanted="rows in their order", got="a mapping of rows beside", where=path, do=do)
        listed = state.get("_data_files")
        names = [one.get("filename") if isinstance(one, dict) else None for one in listed or ()]
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            got = repr(listed)[:80]
            raise DataError(wanted="names of Arrow files", got=got, where=path / "state.json", do="save it again")
        files = [path / str(name) for name in names]
    if not files or (missing := [p.name for p in files if not p.is_file()]):
        got = f"no {some(missing, 3)}" if files else "none"
        raise DataError(wanted="the Arrow files of the split", got=got, where=path, do="copy the whole folder")
    return files


def _complete(files: Sequence[Path], folder: Path) -> list[Path]:
    """The files. Raises: DataError: of those numbered ``00000-of-00002`` one is missing."""
    groups: dict[tuple[str, int], set[int]] = {}
    for path in files:
        if found := NUMBERED.fullmatch(path.name):
            groups.setdefault((found[1], int(found[3])), set()).add(int(found[2]))
    for (name, count), numbers in groups.items():
        if missing := sorted(set(range(min(count, 100_000))) - numbers):
            got = f"{len(numbers)}, without number {missing[0]}"
            raise DataError(wanted=f"{count} files {name}-*", got=got, where=folder, do="copy the whole folder")
    return list(files)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = safe_json.parse(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        do = "save the dataset again, or copy it again"
        raise DataError(wanted="a JSON object", got=str(error)[:120], where=path, do=do) from error
    return found


def opened(path: Path) -> pa.Table:
    """A file's table, mapped into memory, not read.

    Raises: SettingsError: pyarrow is not installed. DataError: no Arrow file, or its end is missing.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        do = "pip install 'evaltk[arrow]'"
        raise SettingsError(wanted="pyarrow to read Arrow files", got="no such package", where=path, do=do) from error
    do = "save or copy the file again"
    try:
        with path.open("rb") as stream:
            begin = stream.read(len(FILE))
            size = stream.seek(0, 2)
            stream.seek(max(0, size - len(END)))
            end = stream.read()
        source = pa.memory_map(str(path))
        if begin != FILE and size and end != END:
            raise DataError(wanted="a whole Arrow file", got="a stream without its end", where=path, do=do)
        return (pa.ipc.open_file if begin == FILE else pa.ipc.open_stream)(source).read_all()
    except EvaltkError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything; none of it is ours
        raise DataError(wanted="a whole Arrow file", got=str(error)[:160], where=path, do=do) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """One file: its image column, labels as text or numbers, names of the numbers, bytes of each image."""

    path: Path
    column: str
    labels: tuple[Label, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @staticmethod
    def read(path: Path, options: DataOptions) -> _Table:
        table = opened(path)
        try:
            return _Table.of(path, table, options)
        except EvaltkError:
            raise
        except Exception as error:  # a damaged file can raise nearly anything; none of it is ours
            do = "save or copy the file again"
            raise DataError(wanted="a whole Arrow file", got=str(error)[:160], where=path, do=do) from error

    @staticmethod
    def of(path: Path, table: pa.Table, options: DataOptions) -> _Table:
        features = _features(path, table)
        column, label = _columns(path, table, features, options)
        table.select([column, label]).validate(full=True)  # pyarrow follows offsets blindly
        names = features.get(label, {}).get("names") or ()
        values = table[label].to_pylist()
        bare = own.bare(values)
        labels = [own.NONE] * len(values) if bare else [_label(value, row, path) for row, value in enumerate(values)]
        bad = [one for one in set(labels) if not isinstance(one, int) or not 0 <= one < len(names)]
        if names and bad and not bare:
            got = f"label {bad[0]}" + (" (no label)" if bad[0] == -1 else "")
            do = "leave out what has no label; test splits on the hub often have none"
            raise DataError(wanted=f"labels 0 to {len(names) - 1}", got=got, where=path, do=do)
        sizes = tuple(_sizes(table[column], path))
        return _Table(path=path, column=column, labels=tuple(labels), names=tuple(map(str, names)), sizes=sizes)


def _features(path: Path, table: pa.Table) -> Mapping[str, dict[str, Any]]:
    """{column: its Hugging Face feature}, from dataset_info.json or the file itself; {} where neither tells."""
    info: Any = {}
    if (path.parent / "dataset_info.json").is_file():
        info = _json(path.parent / "dataset_info.json")
    elif b"huggingface" in (table.schema.metadata or {}):
        try:
            info = safe_json.parse(table.schema.metadata[b"huggingface"])["info"]
        except (ValueError, KeyError, TypeError):
            info = {}
    found = info.get("features") if isinstance(info, dict) else None
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def _columns(
    path: Path, table: pa.Table, features: Mapping[str, dict[str, Any]], options: DataOptions
) -> tuple[str, str]:
    """The columns of images and of labels. Raises: DataError: none, or several."""
    there = table.schema.names
    pictures = [name for name in there if _is_image(table.schema.field(name).type)]
    if options.path_column is None and len(pictures) != 1:
        got = ", ".join(pictures) if pictures else f"none among {some(list(there), 8)}"
        do = f"--path-column {pictures[0]}" if pictures else "save images, not arrays: cast_column(name, Image())"
        raise DataError(wanted="one column of encoded images", got=got, where=path, do=do)
    what = "encoded images"
    column = own.column(there, options.path_column, (), flag="--path-column", what=what, where=path) or pictures[0]
    if column not in pictures:
        got = str(table.schema.field(column).type)[:60]
        raise DataError(wanted=f"encoded images in {column!r}", got=got, where=path, do=f"one of {some(pictures, 5)}")
    known = [name for name in there if features.get(name, {}).get("_type") == "ClassLabel"]
    customary = tuple(map(str.lower, known)) or own.LABELS
    asked = options.label_column
    return column, own.needed(there, asked, customary, flag="--label-column", what="labels", where=path)


def _is_image(kind: Any) -> bool:
    text = str(kind)
    if text in ("binary", "large_binary"):
        return True
    return text.startswith("struct") and any(
        kind.field(i).name == "bytes" and "binary" in str(kind.field(i).type) for i in range(kind.num_fields)
    )


def _label(value: Any, row: int, path: Path) -> Label:
    value = own.whole(value)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int):
        return value
    got = f"{value!r}"[:40] + f" in row {row}"
    do = "leave rows without a label out; name another column with --label-column"
    raise DataError(wanted="labels that are whole numbers or text", got=got, where=path, do=do)


def _sizes(column: Any, path: Path) -> list[int]:
    """Bytes of each image, 0 where there are none. Raises: DataError: paths in place of bytes."""
    import pyarrow.compute as pc

    data = column if "struct" not in str(column.type) else pc.struct_field(column, _place(column.type))
    sizes = [size or 0 for size in pc.binary_length(data).to_pylist()]
    if sizes and not any(sizes):
        do = "embed the images: save_to_disk of a recent version of datasets does"
        raise DataError(wanted="images inside the file", got="none; only paths", where=path, do=do)
    return sizes


def _place(kind: Any) -> int:
    return next(i for i in range(kind.num_fields) if kind.field(i).name == "bytes")


@dataclass(frozen=True, slots=True)
class _Rows:
    """Reads images by row, counted through all files; each process maps the files when it first needs them."""

    dataset: str
    root: Path
    tables: tuple[_Table, ...]
    _open: dict[int, Any] = field(default_factory=dict, compare=False)

    def __reduce__(self) -> tuple[object, ...]:
        return _Rows, (self.dataset, self.root, self.tables)

    def split(self, name: str, classes: tuple[str, ...], ids: np.ndarray) -> EncodedSplit:
        """The split of all rows."""
        names = [f"{self._name(table.path)}#{row}" for table in self.tables for row in range(len(table.labels))]
        return encoded.stored(
            self.dataset,
            name,
            self.root,
            classes,
            ids,
            ids=names,
            sizes=[size for table in self.tables for size in table.sizes],
            reader=self,
            files=[table.path for table in self.tables],
        )

    def read(self, row: int) -> bytes:
        """The bytes of an image."""
        for number, table in enumerate(self.tables):
            if row < len(table.labels):
                if number not in self._open:
                    self._open[number] = opened(table.path)[table.column]
                cell = self._open[number][row].as_py()
                return (cell["bytes"] if isinstance(cell, dict) else cell) or b""
            row -= len(table.labels)
        raise ValueError(f"no row {row}")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name
