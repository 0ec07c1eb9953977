"""Every parser of files: how a sound file is made, how it is mutated, how it is read as the commands read it."""

from __future__ import annotations

import io
import json
import pickle
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutation
import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden"
RECIPES = Path(__file__).parents[2] / "pretrain" / "recipes"
Make = Callable[[random.Random, Path], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """make(rng, path) writes a mutant, a file or a folder; read(path) is what must not fail otherwise.

    `share`: of the inputs asked for, where one takes long.
    """

    name: str
    make: Make
    read: Callable[[Path], object]
    suffix: str = ""
    share: float = 1.0


def mutated(*sound: bytes) -> Make:
    """Files with changed bytes, and now and then a sound one, which is to be read."""

    def make(rng: random.Random, path: Path) -> None:
        data = rng.choice(sound)
        path.write_bytes(mutation.of_bytes(rng, data) if rng.random() < 0.95 else data)

    return make


def either(*makes: Make) -> Make:
    """One of the ways."""
    return lambda rng, path: rng.choice(makes)(rng, path)


def changed(trees: list[Any], dump: Callable[[Any], bytes], words: tuple[Any, ...] = mutation.WORDS) -> Make:
    """Files of changed trees; a tree that cannot be written is written as it was."""

    def make(rng: random.Random, path: Path) -> None:
        sound = tree = rng.choice(trees)
        for _ in range(rng.choice((1, 1, 2))):
            tree = mutation.of_tree(rng, tree, words)
        try:
            data = dump(tree)
        except Exception:  # noqa: BLE001 - a word that the format has no form for
            data = dump(sound)
        path.write_bytes(data)

    return make


def as_json(tree: object) -> bytes:
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def image(form: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (20, 13)) -> bytes:
    """A small image file."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def arrays_npy() -> Make:
    """Files of numpy with changed bytes, or with a header that promises something else."""
    headers = [
        f"{{'descr':'{kind}','fortran_order':{order},'shape':{shape}}}"
        for kind in ("<f8", "|O", "<U9999999", "<c16", "<M8[s]", "|V0", ">i2")
        for order in (False, True)
        for shape in (
            "(99999999999,4)",
            "(2**40,)",
            "(3,)",
            "(-1,)",
            "(0,99999999999999)",
            "(4,)",
            "()",
            "(" + "1," * 99 + ")",
        )
    ]
    headers += ["[" * 200, "{'descr':[('a','<f8')],'fortran_order':False,'shape':(3,)}", "open('x','w')", "1" * 5000]
    sound = [npy(np.arange(12.0).reshape(3, 4)), npy(np.array([{"a": 1}], dtype=object)), npy(np.arange(5))]

    def promised(rng: random.Random, path: Path) -> None:
        text = rng.choice(headers).encode() + b"\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(range(40)))

    return either(mutated(*sound), promised)


def score_npy(name: str, folder: Path) -> Parser:
    from evaltk.cli.score._terminal import read_array

    return Parser(name=name, make=arrays_npy(), read=lambda path: read_array(path, "x"), suffix=".npy")


def matrix(name: str, folder: Path) -> Parser:
    from evaltk.prototypes.report import read_matrix

    return Parser(name=name, make=arrays_npy(), read=read_matrix, suffix=".npy")


def distractors(name: str, folder: Path) -> Parser:
    from protocols.retrieval.protocol import Settings, _mapped

    def read(path: Path) -> object:
        found = _mapped(Settings(distractors=str(path)))
        return None if found is None else float(np.nan_to_num(found).sum())

    return Parser(name=name, make=arrays_npy(), read=read, suffix=".npy")


def score_npz(name: str, folder: Path) -> Parser:
    from evaltk.cli.score._terminal import read_array

    x = np.random.default_rng(0).random((5, 4))
    return Parser(
        name=name, make=mutated(npz(x=x, y=np.arange(3))), read=lambda path: read_array(path, "x"), suffix=".npz"
    )


def score_json(name: str, folder: Path) -> Parser:
    from evaltk.cli.score._terminal import read_array

    texts = ["[[1,2],[3,4]]", "[[1,2],[3]]", "[" * 100_000, "[1e999]", '{"a":1}', f"[{'1' * 5000}]", "[null]", '"x"']
    texts += ["[[1],[2,[3]]]", f"[1{'0' * 400}]", "[true]", "[]", '["a"]', "[NaN]", "[-1]"]
    sound = [text.encode() for text in texts]
    plain: Make = lambda rng, path: path.write_bytes(rng.choice(sound))  # noqa: E731
    return Parser(name=name, make=either(plain, mutated(*sound)), read=lambda p: read_array(p, "x"), suffix=".json")


def score_features(name: str, folder: Path) -> Parser:
    """`score knn` and `score fewshot` as commands, on arrays of other shapes, kinds and values."""
    from evaltk.cli import main
    from evaltk.errors import DataError

    rng0 = np.random.default_rng(0)
    sound = {
        "x": rng0.random((12, 3)),
        "y": np.repeat([1, 5, 9], 4),
        "q": rng0.random((3, 3)),
        "t": np.array([1, 5, 9]),
    }

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        arrays = dict(sound)
        for _ in range(rng.choice((1, 1, 2))):
            key = rng.choice(list(arrays))
            arrays[key] = mutation.of_array(rng, arrays[key])
        for key, array in arrays.items():
            np.save(path / f"{key}.npy", array)
        (path / "subject").write_text(rng.choice(("knn", "fewshot")))

    def read(path: Path) -> object:
        subject = (path / "subject").read_text()
        bank = "--bank" if subject == "knn" else "--train"
        x, y, q, t = (str(path / f"{key}.npy") for key in "xyqt")
        words = ["score", subject, bank, x, "--labels", y, "--queries", q, "--query-labels", t]
        code = main([*words, *(("--k", "1", "3") if subject == "knn" else ())])
        if code == 2:
            raise DataError(wanted="sound arrays", got="others")  # printed by the command
        return code

    return Parser(name=name, make=make, read=read)


def checkpoints(suffix: str, files: tuple[str, ...]) -> Callable[[str, Path], Parser]:
    def build(name: str, folder: Path) -> Parser:
        from evaltk.checkpoints.load import load
        from evaltk.checkpoints.read_options import ReadOptions

        sound = [(GOLDEN / "families" / file).read_bytes() for file in files]
        options = ReadOptions(num_heads=2, norm_eps=1e-6, mean=(0.5,) * 3, std=(0.5,) * 3)
        return Parser(name=name, make=mutated(*sound), read=lambda path: load(path, options), suffix=suffix)

    return build


def legacy(name: str, folder: Path) -> Parser:
    import torch

    from evaltk.checkpoints.load import load
    from evaltk.checkpoints.read_options import ReadOptions

    stream = io.BytesIO()
    tree = torch.load(GOLDEN / "families" / "deit_checkpoint.pth", weights_only=True)
    torch.save(tree, stream, _use_new_zipfile_serialization=False)
    options = ReadOptions(num_heads=2, norm_eps=1e-6, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Parser(name=name, make=mutated(stream.getvalue()), read=lambda path: load(path, options), suffix=".pth")


def heads(name: str, folder: Path) -> Parser:
    import torch

    from protocols.linear import published_head

    stream = io.BytesIO()
    torch.save({"state_dict": {"module.linear.weight": torch.ones(3, 4), "module.linear.bias": torch.zeros(3)}}, stream)
    return Parser(name=name, make=mutated(stream.getvalue()), read=published_head.read, suffix=".pth")


def hub_folder(name: str, folder: Path) -> Parser:
    from evaltk.checkpoints.load import load
    from evaltk.checkpoints.read_options import ReadOptions

    config = json.loads((GOLDEN / "families" / "hf_dinov2_config.json").read_text(encoding="utf-8"))
    weights = GOLDEN / "families" / "hf_dinov2_checkpoint.safetensors"
    texts = either(changed([config], as_json), mutated(as_json(config)))

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        shutil.copy(weights, path / "model.safetensors")
        texts(rng, path / "config.json")

    return Parser(name=name, make=make, read=lambda path: load(path, ReadOptions()))


def recipe(name: str, folder: Path) -> Parser:
    from pretrain import nets, recipe

    sound = [path.read_text(encoding="utf-8") for path in sorted(RECIPES.glob("*.toml"))]
    words = ["0", "-1", "1e400", "nan", "inf", '""', '"x"', "[]", "{}", "true", "9223372036854775807", "1979-05-27"]
    words += ['"\\u0000"', '[1,"a"]', "1e-320", "99999999", "[[[[1]]]]", "[0.0,0.0]", "[1.0, 0.0]", "9" * 5000]
    ends = [
        "x = " + "[" * 100_000,
        "a" + ".a" * 1500 + " = 1",
        "[a]\n" * 5000,
        '"" = 1',
        'name = "../../x"',
        "[method]",
    ]

    def values(rng: random.Random, path: Path) -> None:
        lines = rng.choice(sound).splitlines()
        at = rng.choice([i for i, line in enumerate(lines) if "=" in line and not line.startswith("#")])
        lines[at] = f"{lines[at].partition('=')[0]}= {rng.choice(words)}"
        path.write_text("\n".join(lines), encoding="utf-8")

    def more(rng: random.Random, path: Path) -> None:
        path.write_text(f"{rng.choice(sound)}\n{rng.choice(ends)}", encoding="utf-8")

    def read(path: Path) -> object:
        found = recipe.load(str(path), ("optim.epochs=300",))
        return nets.parse(found.net.arch)

    make = either(values, values, mutated(*(text.encode() for text in sound)), more)
    return Parser(name=name, make=make, read=read, suffix=".toml")


def resume(name: str, folder: Path) -> Parser:
    import torch

    from pretrain import checkpoint, methods, nets, recipe
    from pretrain.loop import init_state

    words = ["method.num_prototypes=16", "method.hidden=16", "method.bottleneck=8"]
    told = recipe.load("digits_dino_vmf", [*words, "net.arch=vit_patch8_dim8_depth1_heads2_img16"])
    method, arch, cpu = methods.get("dino"), nets.parse(told.net.arch), torch.device("cpu")
    state = init_state(told, method, arch, cpu)
    for parameter in state.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    tree = checkpoint.pack(told, method, arch, state)
    odd = (*(w for w in mutation.WORDS if w != "\ud800"), torch.ones(3), torch.tensor(float("nan")), torch.zeros(2, 2))

    def dump(tree: object) -> bytes:
        stream = io.BytesIO()
        torch.save(tree, stream)
        return stream.getvalue()

    def read(path: Path) -> object:
        fresh = init_state(told, method, arch, cpu)
        checkpoint.resume(fresh, told, method, folder=path.parent, source=str(path), images={})
        for parameter in fresh.network.parameters():
            parameter.grad = torch.ones_like(parameter)
        fresh.optimizer.param_groups[0]["lr"] = 0.0
        fresh.optimizer.step()
        return fresh.position

    make = either(changed([tree], dump, odd), changed([tree], dump, odd), mutated(dump(tree)))
    return Parser(name=name, make=make, read=read, suffix=".pth")


def training_log(name: str, folder: Path) -> Parser:
    from pretrain import monitor
    from reports.figures import training_log

    lines = [{"step": 50 * i, "epoch": i, "loss": 2.0 / (i + 1), "knn": 0.1 * i, "alarms": []} for i in range(8)]
    sound = "".join(json.dumps(line) + "\n" for line in lines).encode()

    def trees(rng: random.Random, path: Path) -> None:
        path.write_text("\n".join(json.dumps(one) for one in mutation.of_tree(rng, lines)), encoding="utf-8")

    def read(path: Path) -> object:
        return [monitor._step(one) for one in path.read_text(errors="replace").splitlines()], training_log.read(path)

    deep: Make = lambda rng, path: path.write_bytes(sound + b"[" * 100_000)  # noqa: E731
    return Parser(name=name, make=either(trees, mutated(sound), mutated(sound), deep), read=read, suffix=".jsonl")


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


def catalogue(name: str, folder: Path) -> Parser:
    from evaltk.checkpoints import catalog

    entry = {"url": "https://host/x.pth", "family": "dino", "arch": "vit_small_patch16_224", "method": "DINO"}
    lines = [
        "[checkpoints.a]",
        *(f'{key} = "{value}"' for key, value in entry.items()),
        'title = "T"',
        'kind = "backbone"',
        'licence = "MIT"',
    ]
    sound = "\n".join(lines).encode()
    words = ["0", "-1", "nan", '""', "[]", "{}", '"file:///etc/passwd"', '"https://h/../../x"', '"https://[::1/x"']
    words += ['"https://h:x/x"', "[" * 50_000, "9" * 5000]

    def values(rng: random.Random, path: Path) -> None:
        mine = list(lines)
        at = rng.randrange(1, len(mine))
        mine[at] = f"{mine[at].partition('=')[0]}= {rng.choice(words)}"
        path.write_text("\n".join(mine), encoding="utf-8")

    return Parser(name=name, make=either(values, mutated(sound)), read=catalog.load, suffix=".toml")


def results_of() -> list[dict[str, Any]]:
    paths = sorted((GOLDEN / "results_v1").rglob("*-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def result_files(name: str, folder: Path) -> Parser:
    """Results of both formats -> every table, in every form."""
    from dataclasses import asdict

    from evaltk import results
    from evaltk.errors import StorageError
    from reports import paired
    from reports.formats import render
    from reports.tables.build import build_overview

    old = results_of()
    upgraded = folder / f"knn-x-{0:012x}.json"
    new = []
    for tree in old:
        upgraded.write_bytes(as_json(tree))
        new.append({"format": results.FORMAT, **json.loads(json.dumps(asdict(results.read(upgraded))))})
    upgraded.unlink()
    trees = [*old, *new, *new]
    texts = either(changed(trees, as_json), changed(trees, as_json), mutated(*map(as_json, new)))

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        texts(rng, path / f"knn-x-{0:012x}.json")
        for j in range(1, rng.choice((2, 3))):
            (path / f"knn-x-{j:012x}.json").write_bytes(as_json(rng.choice(new)))

    def read(path: Path) -> object:
        found = list(results.find(path, skip=lambda path, why: None))
        if not found:
            raise StorageError(wanted="results", got="none")
        made = build_overview([r for _, r in found], predictions=paired.beside(found, lambda e: None))
        return [len(render.render_all(made, form)) for form in ("md", "csv", "html", "latex", "terminal")]

    return Parser(name=name, make=make, read=read)


def predictions(name: str, folder: Path) -> Parser:
    """Arrays beside results -> tables with tests, and the figures and galleries of prototypes."""
    import prediction_files

    from evaltk import results
    from reports import paired
    from reports.tables.build import build_overview

    pairs: list[tuple[bytes, Mapping[str, np.ndarray]]] = prediction_files.pairs(folder)

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        text, arrays = rng.choice(pairs)
        others = rng.choice(pairs)
        for j, (json_text, sound) in enumerate(((text, arrays), others)):
            file = path / f"knn-x-{j:012x}.json"
            file.write_bytes(json_text)
            mine = dict(sound)
            for _ in range(rng.choice((1, 1, 2)) if not j else 0):
                key = rng.choice(list(mine))
                if rng.random() < 0.2:
                    mine.pop(key)
                else:
                    mine[key] = mutation.of_array(rng, mine[key])
            data = npz(**mine)
            if not j and rng.random() < 0.3:
                data = mutation.of_bytes(rng, data)
            results.predictions_path(file).write_bytes(data)

    def read(path: Path) -> object:
        found = list(results.find(path))
        made = build_overview([r for _, r in found], predictions=paired.beside(found, lambda e: None))
        return len(made)

    return Parser(name=name, make=make, read=read)


def cache_entry(name: str, folder: Path) -> Parser:
    from evaltk.features.cache import CacheEntry
    from evaltk.types import FeatureKey

    words = ("sha256", "dataset", "split", "transform", "recipe", "precision", "position")
    key = FeatureKey(**dict.fromkeys(words, "x"), version=1)

    def make(rng: random.Random, path: Path) -> None:
        CacheEntry(root=path, key=key).write_arrays("masks.npz", {"masks": np.arange(60).reshape(3, 4, 5)})
        (file,) = path.rglob("masks.npz")
        file.write_bytes(mutation.of_bytes(rng, file.read_bytes()))

    return Parser(name=name, make=make, read=lambda p: CacheEntry(root=p, key=key).read_arrays("masks.npz", ["masks"]))


def page(name: str, folder: Path) -> Parser:
    """Results of every protocol, and arrays beside them -> the page with its figures, and the figures alone."""
    import prediction_files

    from evaltk import results
    from reports.page.build import build_page

    tables, beside = result_files(name, folder), predictions(name, folder)
    drawn = prediction_files.prototypes(folder)

    def prototypes(rng: random.Random, path: Path) -> None:
        path.mkdir()
        file = path / f"prototypes-x-{0:012x}.json"
        text, mine = drawn[0], dict(drawn[1])
        if rng.random() < 0.3:
            text = as_json(mutation.of_tree(rng, json.loads(text)))
        for _ in range(rng.choice((1, 1, 2))):
            key = rng.choice(list(mine))
            if rng.random() < 0.2:
                mine.pop(key)
            else:
                mine[key] = mutation.of_array(rng, mine[key])
        file.write_bytes(text)
        results.predictions_path(file).write_bytes(npz(**mine))

    def read(path: Path) -> object:
        found = list(results.find(path, skip=lambda path, why: None))
        text = build_page(found, runs=path)
        assert "<script>alert" not in text
        return len(text)

    return Parser(name=name, make=either(tables.make, beside.make, prototypes, prototypes), read=read, share=0.02)


def figures(name: str, folder: Path) -> Parser:
    """As `page`, without the tables and the SVG, which take long."""
    from evaltk import results
    from evaltk.errors import StorageError
    from reports.figures import collect
    from reports.page import galleries

    def read(path: Path) -> object:
        found = list(results.find(path, skip=lambda path, why: None))
        said: list[StorageError] = []
        made = list(collect.of_analyses(found, complain=said.append))
        for file, _ in found:
            arrays = results.read_predictions(file, galleries.GALLERY_ARRAYS)
            if "gallery_images" in arrays and not galleries.gallery_fault(arrays):
                galleries.build_gallery("x", arrays, 100_000)
        if said:
            raise said[0]
        return len(made)

    return Parser(name=name, make=page(name, folder).make, read=read, share=0.2)


PARSERS: dict[str, Callable[[str, Path], Parser | None]] = {
    "checkpoint-zip": checkpoints(".pth", ("deit_checkpoint.pth", "clip_vit_torchscript_checkpoint.pt")),
    "checkpoint-legacy": legacy,
    "checkpoint-safetensors": checkpoints(".safetensors", ("hf_dinov2_checkpoint.safetensors",)),
    "hub-folder": hub_folder,
    "head": heads,
    "catalogue": catalogue,
    "npy": score_npy,
    "npz": score_npz,
    "json": score_json,
    "features": score_features,
    "matrix": matrix,
    "distractors": distractors,
    "ground-truth": ground_truth,
    "cifar": cifar,
    "lists": lists,
    "csv": tables,
    "parquet": parquet,
    "arrow": arrow_files,
    "webdataset": shards,
    "zip": zips,
    "masks": masks,
    "images": pictures,
    "recipe": recipe,
    "resume": resume,
    "log": training_log,
    "results": result_files,
    "predictions": predictions,
    "figures": figures,
    "page": page,
    "cache": cache_entry,
}
