"""Features as files for other programs: npz, safetensors or parquet, with labels, names and what they depend on."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from evaltk import files
from evaltk.errors import SettingsError
from evaltk.types import Features

FORMATS = (".npz", ".parquet", ".safetensors")
HEADER = 90_000_000  # bytes of metadata that readers of safetensors take


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted(Features):
    """Features that can be written to a file.

    Attributes:
        classes: names of the classes 0, 1, ... in `y`; empty where images have none, and `y` is -1.
        made: {checkpoint, dataset, versions, ...}, plain values: what the features are of, and what made them.
    """

    classes: tuple[str, ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write the features, whole or not at all; the ending of the name decides the format.

        ``.npz``: arrays x [N, D] float32, y [N] int64, ids [N], classes [C] and a text, provenance (JSON).
        ``.safetensors``: x and y; ids, classes and provenance as JSON in the metadata.
        ``.parquet`` (needs pyarrow): columns id, label, class and x, a list of D numbers; provenance in the metadata.

        Raises: SettingsError: another ending. StorageError: no room, or no right to write.
        """
        path = Path(path).expanduser()
        check_path(path)
        files.write(path, WRITERS[path.suffix](self))
        return path

    def provenance(self) -> str:
        """JSON: the key of the features, what they were made of, skipped images."""
        return json.dumps({"key": asdict(self.key), **self.made, "skipped": list(self.skipped)}, sort_keys=True)


def check_path(path: Path) -> None:
    """Check before any work that features can be written. Raises: SettingsError, StorageError."""
    if path.suffix not in FORMATS:
        wanted, do = f"a name ending in {', '.join(FORMATS)}", f"{path.stem or 'features'}.npz"
        raise SettingsError(wanted=wanted, got=path.name, where="--out", do=do)
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        wanted, do = "pyarrow, to write parquet", "pip install 'evaltk[parquet]', or write .npz"
        raise SettingsError(wanted=wanted, got="an environment without", where=path, do=do)
    files.check_folder(path.parent)


def _npz(features: Extracted) -> Callable[[BinaryIO], object]:
    text = {"ids": features.ids, "classes": features.classes, "provenance": features.provenance()}
    arrays = {name: np.asarray(value, dtype=np.str_) for name, value in text.items()}
    return lambda stream: np.savez(stream, x=features.x, y=features.y, **arrays)  # type: ignore[arg-type]


def _safetensors(features: Extracted) -> Callable[[BinaryIO], object]:
    from safetensors.numpy import save

    text = {"ids": features.ids, "classes": features.classes}
    metadata = {k: json.dumps(v) for k, v in text.items()} | {"provenance": features.provenance()}
    if (size := sum(map(len, metadata.values()))) > HEADER:
        got = f"{size:,} bytes of names"
        raise SettingsError(wanted="names that fit a safetensors file", got=got, where="--out", do="write .npz")
    tensors = {"x": np.ascontiguousarray(features.x), "y": np.ascontiguousarray(features.y)}
    return lambda stream: stream.write(save(tensors, metadata))


def _parquet(features: Extracted) -> Callable[[BinaryIO], object]:
    import pyarrow as pa
    from pyarrow import parquet

    numbers = pa.array(np.ascontiguousarray(features.x).reshape(-1))
    names = [_unicode(features.classes[y]) if y >= 0 else None for y in features.y.tolist()]
    columns = {
        "id": pa.array(list(map(_unicode, features.ids)), pa.string()),
        "label": pa.array(features.y),
        "class": pa.array(names, pa.string()),
        "x": pa.FixedSizeListArray.from_arrays(numbers, features.x.shape[1]),
    }
    table = pa.table(columns).replace_schema_metadata({"evaltk": features.provenance()})
    return lambda stream: parquet.write_table(table, stream)


def _unicode(name: str) -> str:
    """A file's name as Unicode; bytes that are not UTF-8 are escaped (``\\udcff``), as in the other formats."""
    return name.encode("utf-8", errors="backslashreplace").decode()


WRITERS: dict[str, Callable[[Extracted], Callable[[BinaryIO], object]]] = {
    ".npz": _npz,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
