"""What a parser of files is here, and how sound files and mutants of them are made."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutation
import numpy as np
from PIL import Image

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
