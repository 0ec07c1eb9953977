"""What `benchmarks.numbers` writes down: arrays and texts by name, without what differs from run to run anyway."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS, TEXTS = "numbers.npz", "texts.json"
# Of results and logs: when, where, how long and by which versions; not what was found.
PASSING = {"made", "request", "stamp", "time", "seconds", "date", "images_per_s", "peak_memory", "version", "cache"}
NOT_A_NUMBER = re.compile(r"(second|minute|memory|throughput|_per_s|img_s|^time|stamp)")


class Record:
    """Numbers and texts, each under a name GROUP/...; paths below `folder` are written as HERE."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, np.ndarray] = {}
        self.texts: dict[str, str] = {}

    def array(self, name: str, value: Any) -> None:
        """A tensor, array or number; texts in an array become one text."""
        found = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
        if found.dtype.kind in "USO":
            self.text(name, "\n".join(map(str, found.ravel().tolist())))
            return
        if name in self.arrays:
            raise ValueError(f"{name} stands twice")
        self.arrays[name] = found

    def text(self, name: str, text: str) -> None:
        """A text."""
        if name in self.texts:
            raise ValueError(f"{name} stands twice")
        self.texts[name] = text.replace(str(self.folder), "HERE")

    def tree(self, name: str, value: Any) -> None:
        """All that a JSON value holds: numbers as numbers, the rest as text."""
        if isinstance(value, Mapping):
            for key, part in value.items():
                if key not in PASSING and not NOT_A_NUMBER.search(str(key)):
                    self.tree(f"{name}/{key}", part)
        elif isinstance(value, list) and value and all(type(part) in (int, float) for part in value):
            self.array(name, np.asarray(value, dtype=np.float64))
        elif isinstance(value, list):
            for i, part in enumerate(value):
                self.tree(f"{name}/{i}", part)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            self.array(name, np.float64(value))
        else:
            self.text(name, str(value))

    def results(self, name: str, folder: Path) -> None:
        """Every result below a folder with its predictions: scores by what they measure, then settings and notes."""
        for path in sorted(folder.rglob("*.json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            if "scores" not in found:
                continue
            of = f"{name}/{path.parent.name}/{path.stem.rpartition('-')[0]}"
            for score in found.pop("scores"):
                at = " ".join(f"{k}={v}" for k, v in sorted(score["at"].items()))
                what = f"{of}/scores/{score['split']} {score['metric']} {at}".replace(str(self.folder), "HERE")
                self.tree(what, {"value": score["value"], "n": score["n"], "interval": score["interval"]})
            self.tree(f"{of}/settings", found["settings"])
            self.tree(f"{of}/notes", found.get("notes", []))
            beside = path.with_suffix(".predictions.npz")
            if beside.exists():
                with np.load(beside, allow_pickle=False) as predictions:
                    for key in predictions.files:
                        self.array(f"{of}/predictions/{key}", predictions[key])

    def weights(self, name: str, tree: Any) -> None:
        """Of each tensor in a checkpoint the exact sums of its elements and of their squares, rounded once."""
        for key, value in tree.items():
            if isinstance(value, Mapping):
                self.weights(f"{name}/{key}", value)
            elif hasattr(value, "detach") and value.is_floating_point():
                flat = value.detach().double().flatten().tolist()
                self.array(f"{name}/{key}", [math.fsum(flat), math.fsum(v * v for v in flat)])

    def write(self, out: Path) -> None:
        """Two files: the arrays and the texts."""
        out.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out / ARRAYS, **self.arrays)  # type: ignore[arg-type]
        (out / TEXTS).write_text(json.dumps(self.texts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(out: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, texts) that were written."""
    with np.load(out / ARRAYS, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    return arrays, json.loads((out / TEXTS).read_text(encoding="utf-8"))
