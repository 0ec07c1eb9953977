"""Parsers of datasets: lists, tables, archives, images and masks."""

from __future__ import annotations

import io
import json
import pickle
import random
from pathlib import Path
from typing import Any

import mutation
import numpy as np
from making import Parser, changed, either, image, mutated


def ground_truth(name: str, folder: Path) -> Parser:
    from evaltk.data.revisitop import read_ground_truth

    query = {"bbx": [1.0, 2.0, 30.0, 40.0], "easy": [1, 2], "hard": [3], "junk": [4, 5]}
    plain = {"imlist": [f"im{i}" for i in range(30)], "qimlist": [f"q{i}" for i in range(4)], "gnd": [query] * 4}
    with_arrays = plain | {"gnd": [{k: np.array(v) for k, v in query.items()}] * 4}
    words = (*mutation.WORDS, np.arange(3), np.array(["a"]), np.array([None], dtype=object), b"x", 1j, {1}, np.array(5))
    sound = [pickle.dumps(tree, protocol) for tree in (plain, with_arrays) for protocol in range(6)]
    make = either(changed([plain, with_arrays], pickle.dumps, words), mutated(*sound))
    return Parser(name=name, make=make, read=read_ground_truth, suffix=".pkl")


def cifar(name: str, folder: Path) -> Parser:
    from evaltk.data import cifar_files, listed

    tree = {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 2], b"filenames": [b"a"] * 3}
    archive = cifar_files.Archive(
        folder="x", files={"train": ("a",)}, read=lambda path: cifar_files.pickled(path, b"labels")
    )
    official = listed.Official(title="CIFAR-10", where="here", classes=10, counts={"train": 50_000, "test": 10_000})
    published = cifar_files.Published(
        official=official, classes=tuple("abcdefghij"), number="ten", archives=(archive,), labels=("label",)
    )
    make = either(changed([tree], lambda t: pickle.dumps(t, 2)), mutated(pickle.dumps(tree, 2)))
    return Parser(name=name, make=make, read=lambda path: cifar_files._batch(path, archive, published), suffix=".pkl")


def lists(name: str, folder: Path) -> Parser:
    from evaltk.data import images
    from protocols.fewshot import shots

    names = [f"c{c}" for c in range(3)]
    for split in ("train", "test"):
        for c in names:
            (folder / "data" / split / c).mkdir(parents=True)
            for i in range(3):
                (folder / "data" / split / c / f"{i}.png").write_bytes(image())
    train = images.from_folder("own", "train", folder / "data", names, get="")
    text = "\n".join(f"{c}/{i}.png" for c in names for i in range(2)).encode()

    def make(rng: random.Random, path: Path) -> None:
        (path / "s1").mkdir(parents=True)
        odd = ("1percent.txt", "9" * 30 + "percent.txt", "0.5percent.txt", "1" * 200 + "imgs_class.txt")
        mutated(text)(rng, path / "s1" / rng.choice(("2imgs_class.txt", "2imgs_class.txt", *odd)))

    def read(path: Path) -> object:
        return shots.digest(path), shots.read(path, train, per_class=(2,), percent=1.0)

    return Parser(name=name, make=make, read=read)


def tables(name: str, folder: Path) -> Parser:
    from evaltk.data import path_tables
    from evaltk.data.options import DataOptions

    for i in range(6):
        (folder / f"{i}.png").write_bytes(image())
    csv = "path,label,split\n" + "".join(f"{i}.png,c{i % 2},{'train' if i < 4 else 'test'}\n" for i in range(6))
    tsv = csv.replace(",", "\t")
    make = mutated(csv.encode(), tsv.encode(), ("\ufeff" + csv).encode())
    return Parser(name=name, make=make, read=lambda p: path_tables.load(str(p), "x", DataOptions()), suffix=".csv")


def opened(dataset: Any) -> int:
    """Open the first images of a dataset; the first error counts where none opens."""
    from evaltk.errors import DataError, EvaltkError

    good, first = 0, None
    for i in range(min(len(dataset.train), 6)):
        try:
            dataset.train.open(i)
            good += 1
        except (EvaltkError, MemoryError, OSError, ValueError) as error:  # what the loader makes one of its own
            first = first or error
    if not good and first:
        raise DataError(wanted="images", got=str(first)[:80])
    return good


def columns() -> Any:
    import pyarrow as pa

    cells = [{"bytes": image(), "path": f"{i}.png"} for i in range(6)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, kind), "label": pa.array([i % 3 for i in range(6)], pa.int64())})
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def parquet(name: str, folder: Path) -> Parser | None:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        return None
    from evaltk.data import arrow
    from evaltk.data.options import DataOptions

    sound = []
    for compression in ("snappy", "none", "gzip", "zstd"):
        stream = io.BytesIO()
        pq.write_table(columns(), stream, compression=compression, row_group_size=4)
        sound.append(stream.getvalue())

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        data = rng.choice(sound)
        size = int.from_bytes(data[-8:-4], "little")
        footer = mutation.of_bytes(rng, data[-8 - size : -8])
        with_footer = data[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        bad = with_footer if rng.random() < 0.4 else mutation.of_bytes(rng, data)
        (path / "train-00000-of-00001.parquet").write_bytes(bad)
        (path / "test-00000-of-00001.parquet").write_bytes(sound[0])

    return Parser(name=name, make=make, read=lambda p: opened(arrow.load(str(p), "x", DataOptions())))


def arrow_files(name: str, folder: Path) -> Parser | None:
    try:
        import pyarrow as pa
    except ImportError:
        return None
    from evaltk.data import arrow
    from evaltk.data.options import DataOptions

    sound = []
    for new in (pa.ipc.new_stream, pa.ipc.new_file):
        sink = pa.BufferOutputStream()
        with new(sink, columns().schema) as writer:
            writer.write_table(columns(), max_chunksize=3)
        sound.append(sink.getvalue().to_pybytes())
    options = DataOptions(split=0.5)
    return Parser(
        name=name, make=mutated(*sound), read=lambda p: opened(arrow.load(str(p), "x", options)), suffix=".arrow"
    )


def shards(name: str, folder: Path) -> Parser:
    import tarfile

    from evaltk.data import webdataset
    from evaltk.data.options import DataOptions

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for i in range(6):
            for file, data in ((f"{i}.png", image()), (f"{i}.cls", str(i % 2).encode())):
                entry = tarfile.TarInfo(file)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    options = DataOptions(split=0.5)
    make = mutated(stream.getvalue())
    return Parser(name=name, make=make, read=lambda p: opened(webdataset.load(str(p), "x", options)), suffix=".tar")


def zips(name: str, folder: Path) -> Parser:
    import zipfile

    from evaltk.errors import EvaltkError
    from pretrain.data.sources import ZipSource

    def zipped(entries: list[tuple[str, bytes]], compression: int) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", compression) as archive:
            for file, data in entries:
                archive.writestr(file, data)
        return stream.getvalue()

    sound = [(f"c{j}/{i}.png", image()) for j in range(2) for i in range(3)]
    odd = ["../../x.png", "/etc/x.png", "c0/\x1b[31m.png", "c0/a\n.png", "C:\\x.png", "c0/" + "a" * 60000 + ".png"]
    odd += ["c0/\u202e.png", ".png", "__MACOSX/x.png", "x.PNG", "a/" * 3000 + "x.png"]

    def named(rng: random.Random, path: Path) -> None:
        entries = [(rng.choice(odd), rng.choice((image(), b"", b"x"))) for _ in range(3)]
        path.write_bytes(zipped(list(dict(entries).items()), zipfile.ZIP_STORED))

    def read(path: Path) -> object:
        source, good, first = ZipSource(path), 0, None
        for i in range(min(len(source), 6)):
            try:
                source.open(i)
                good += 1
            except EvaltkError as error:
                first = error
        if not good and first:
            raise first
        return good

    plain = mutated(zipped(sound, zipfile.ZIP_STORED), zipped(sound, zipfile.ZIP_DEFLATED))
    return Parser(name=name, make=either(plain, plain, named), read=read, suffix=".zip")


def masks(name: str, folder: Path) -> Parser:
    from evaltk.data import frames

    make = mutated(*(image(mode=mode) for mode in ("P", "L", "1", "RGB")))
    return Parser(name=name, make=make, read=frames.read_ids, suffix=".png")


def pictures(name: str, folder: Path) -> Parser:
    from evaltk.data import frames

    forms = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
    sound = [image(form) for form in forms] + [image("PNG", mode) for mode in ("P", "L", "1", "RGBA", "LA")]
    return Parser(name=name, make=mutated(*sound), read=frames.open_frame, suffix=".png")
