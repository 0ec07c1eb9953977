"""One folder of images written in every other form that evaltk reads."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder

Row = tuple[Path, int, str]  # file, class id, class name


def rows_of(folder: Path) -> list[Row]:
    """The images below class folders, in torchvision's order."""
    found = ImageFolder(str(folder))
    return [(Path(path), label, found.classes[label]) for path, label in found.samples]


def write_csv(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str], *, separator: str = ",") -> Path:
    """A table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=separator).writerows([header, *rows])
    return path


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar file of these members, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def write_shards(folder: Path, split: str, rows: Sequence[Row], *, size: int = 5, form: str = "cls") -> None:
    """Shards of `size` samples, labelled by KEY.cls or KEY.json."""
    for number, start in enumerate(range(0, len(rows), size)):
        members = []
        for at, (file, label, name) in enumerate(rows[start : start + size], start):
            text = str(label) if form == "cls" else json.dumps({"label": label, "text": name})
            members += [(f"{at:06d}{file.suffix}", file.read_bytes()), (f"{at:06d}.{form}", text.encode())]
        write_tar(folder / f"{split}-{number:03d}.tar", members)


def write_saved(
    folder: Path,
    rows: Sequence[Row],
    *,
    files: int = 2,
    batch: int = 3,
    label: str = "label",
    extra: Mapping[str, Sequence[object]] | None = None,
    features: Mapping[str, Any] | None = None,
) -> Path:
    """One split as `save_to_disk` of Hugging Face's datasets writes it."""
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({name for _, _, name in rows})
    known = {"image": {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    features = known if features is None else features
    per = -(-len(rows) // files)
    listed = []
    for number in range(files):
        mine = rows[number * per : (number + 1) * per]
        cells = [{"bytes": file.read_bytes(), "path": file.name} for file, _, _ in mine]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {"image": pa.array(cells, kind), label: pa.array([label for _, label, _ in mine], pa.int64())}
        columns |= {name: pa.array(cells[number * per : (number + 1) * per]) for name, cells in (extra or {}).items()}
        table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path = folder / f"data-{number:05d}-of-{files:05d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=batch)
        listed.append({"filename": path.name})
    (folder / "dataset_info.json").write_text(json.dumps({"features": features, "splits": {}}))
    (folder / "state.json").write_text(json.dumps({"_data_files": listed, "_format_type": None, "_split": "train"}))
    return folder


def write_saved_splits(folder: Path, splits: Mapping[str, Sequence[Row]]) -> Path:
    """Several splits as `save_to_disk` of a DatasetDict writes them."""
    for name, rows in splits.items():
        write_saved(folder / name, rows)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder
