"""Files that hold no weights to read here, named for what they are: by their first bytes, their ending, their entries.

Without torch: a path is checked before anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from evaltk.errors import CheckpointError

WANTED = "a weight file (.pth, .pt, .pth.tar, .safetensors), a folder with one, or a catalogue name"
START = 512  # bytes of a file that are looked at
SAVE = "save the net's state_dict by torch.save or as safetensors, in the code that it comes from"
UNPACK = "unpack it and name the weight file inside"
CONVERT_TF = "convert it in transformers: AutoModel.from_pretrained(FOLDER, from_tf=True).save_pretrained(OUT)"
CONVERT_FLAX = "convert it in transformers: AutoModel.from_pretrained(FOLDER, from_flax=True).save_pretrained(OUT)"
TORCH = "name the PyTorch file of this net, or convert it: copy the arrays by name into a torch state_dict"
IMAGE = "name the weight file; images go to --data"

# How files start that are something else: (first bytes, what they are, what to do).
STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` to get the file itself"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file of TensorFlow or Keras", CONVERT_TF),
    (b"PK\x05\x06", "an empty zip archive", "name the weight file"),
    (b"GGUF", "a GGUF file (quantised weights for llama.cpp)", "name the original, unquantised checkpoint"),
    (b"\x93NUMPY", "one array of numpy (.npy)", SAVE),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", UNPACK),
    (b"\x89PNG\r\n", "an image (PNG)", IMAGE),
    (b"\xff\xd8\xff", "an image (JPEG)", IMAGE),
    (b"GIF8", "an image (GIF)", IMAGE),
    (b"%PDF", "a PDF document", "name the weight file"),
    (b"\x7fELF", "a compiled program or library", SAVE),
    (b"PAR1", "a parquet table", "name the weight file; tables of images go to --data"),
    (b"SQLite format 3", "an SQLite database", "name the weight file"),
)
ONNX_FIELDS = (0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42)
OLD_PICKLE = re.compile(rb"\(?[dl]p\d+\n|c[\w.]+\n\w+\n")
TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # of TensorFlow's .index tables

# Entries of an archive that tell what it is: (has, what, do).
Archive = tuple[Callable[[list[str]], bool], str, str]
ARCHIVES: tuple[Archive, ...] = (
    (
        lambda n: {"storages", "tensors", "pickle"} <= set(n),
        "a file of torch 0.1 (tar), which no torch reads without executing it",
        "load it in your own code where you trust it, and save its state_dict() by torch.save",
    ),
    (lambda n: all(name.endswith(".npy") for name in n), "arrays of numpy or JAX (.npz)", TORCH),
    (lambda n: any(name.endswith("saved_model.pb") for name in n), "a TensorFlow SavedModel", CONVERT_TF),
    (lambda n: "model.weights.h5" in n, "a Keras model", CONVERT_TF),
    (
        lambda n: any(re.search(r"(^|/)(archive_format|serialized_exported|models/.*json)", name) for name in n),
        "a program of torch.export (.pt2)",
        SAVE,
    ),
    (lambda n: any(".data/extern_modules" in name for name in n), "a torch.package archive of code and objects", SAVE),
    (lambda n: any(name.endswith(("model.json", "attributes.pkl")) for name in n), "an old TorchScript archive",
     "load it with torch.jit.load and save its state_dict() by torch.save"),
    (lambda n: any(name.endswith(".mlmodel") for name in n), "a Core ML model", SAVE),
    (lambda n: any(name.endswith((".onnx",)) for name in n), "an archive with an ONNX graph", SAVE),
)  # fmt: skip


def refuse(path: Path, start: bytes) -> None:
    """Raises: CheckpointError: the file's first bytes, or its ending, are those of something else than weights."""
    if len(start) > 8 and start[8:9] == b"{" and not any(start[4:8]):
        return  # safetensors: the length of its header could look like anything
    found = _by_start(path, start)
    if found is not None:
        what, do = found
        raise CheckpointError(wanted=WANTED, got=what, where=path, do=do)


def refuse_archive(path: Path, names: Iterable[str]) -> NoReturn:
    """Raises: CheckpointError: always; a zip or tar archive that torch did not write, named by its entries."""
    held = [name for name in names if not name.endswith("/")]
    for has, what, do in ARCHIVES:
        if held and has(held):
            raise CheckpointError(wanted=WANTED, got=what, where=path, do=do)
    weights = [n for n in held if n.endswith((".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar", "data.pkl"))]
    shown = ", ".join(name[:60] for name in (weights or held)[:3]) or "nothing"
    raise CheckpointError(wanted=WANTED, got=f"an archive that holds {shown}", where=path, do=UNPACK)


def _by_start(path: Path, start: bytes) -> tuple[str, str] | None:
    """(what the file is, what to do) or None."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for first, what, do in STARTS:
        if text.startswith(first):
            return what, do
    title = re.sub(rb"\s+", b" ", text)[:60].decode(errors="replace")
    if text.startswith(b"<"):
        return f"a web page ({title!r})", "download the file itself, not the page about it"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "an image (WebP)", IMAGE
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model", SAVE
    return _by_form(path, start) or _by_text(path, text, title)


def _by_form(path: Path, start: bytes) -> tuple[str, str] | None:
    name = path.name.lower()
    if name.endswith((".index", ".meta")) or re.search(r"\.data-\d{5}-of-\d{5}$", name) or _ends(path, TABLE_END):
        return "a part of a TensorFlow checkpoint", TORCH
    if len(start) > 3 and start[0] == 8 and start[1] < 32 and start[2] in ONNX_FIELDS:
        if name.endswith(".pb"):
            return "a graph of TensorFlow", CONVERT_TF
        return "an ONNX graph", SAVE
    if name.endswith(".msgpack") or _msgpack(start):
        return "a Flax file (msgpack)", CONVERT_FLAX
    return None


def _msgpack(start: bytes) -> bool:
    """Whether it starts as a map whose first key is a word."""
    at = 1 if 0x81 <= start[0] <= 0x8F else 3 if start[0] == 0xDE else 5 if start[0] == 0xDF else 0
    if not at or len(start) <= at + 1:
        return False
    long = start[at] == 0xD9
    length = start[at + 1] if long else start[at] & 0x1F if 0xA1 <= start[at] <= 0xBF else 0
    word = start[at + 1 + long : at + 1 + long + length]
    return bool(length) and len(word) == length and re.fullmatch(rb"[\w./-]+", word) is not None


def _by_text(path: Path, text: bytes, title: str) -> tuple[str, str] | None:
    if len(text) < 8 or re.search(rb"[^\t\n\r\x20-\x7e]", text[:-4]):
        return None
    if OLD_PICKLE.match(text):
        return "a pickle of an old protocol, which torch.save never wrote", SAVE
    if text[:1] in b"{[":
        do = "name its folder" if path.name.endswith(("index.json", "config.json")) else "name the weight file"
        return f"a JSON file ({title!r})", do
    return f"a text file ({title!r})", "name the weight file"


def _ends(path: Path, end: bytes) -> bool:
    with path.open("rb") as stream:
        stream.seek(0, 2)
        size = stream.tell()
        if size < len(end):
            return False
        stream.seek(size - len(end))
        return stream.read() == end
