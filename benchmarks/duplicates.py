"""The four readings of duplicate prototypes at DINO's size, against one bare blockwise product of all pairs."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import _memory
from evaltk.prototypes.duplicates import METHODS, DuplicateSets, duplicate_sets
from evaltk.prototypes.graph import Directions

K, DIM, COPIES, FURTHER, THRESHOLD = 65_536, 256, 54_000, 900, 0.9


def planted(rng: np.random.Generator) -> np.ndarray:
    """[K, DIM] float32: 54,000 duplicates of one direction and 900 further directions with their own, shuffled."""
    centres = rng.standard_normal((1 + FURTHER, DIM), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    which = np.concatenate([np.zeros(COPIES, int), np.arange(K - COPIES) % FURTHER + 1])
    rows = centres[rng.permutation(which)]
    rows += np.float32(0.005) * rng.standard_normal(rows.shape, dtype=np.float32)
    return rows


def bare(unit: torch.Tensor, size: int = 4_096) -> float:
    """The product of all pairs and nothing else, one block of 4,096 x 16,384 at a time (the quickest shape here)."""
    last = 0.0
    out = torch.empty(size * 4 * size)
    for rows in unit.split(size):
        for columns in unit.split(4 * size):
            block = out[: len(rows) * len(columns)].view(len(rows), len(columns))
            last = float(torch.mm(rows, columns.T, out=block)[0, 0])
    return last


def edges_stored(prototypes: np.ndarray, threshold: float) -> tuple[int, int]:
    """The plain version, for a part of the rows: all similarities, all edges, a scan over them. (unique, largest)."""
    unit = torch.nn.functional.normalize(torch.from_numpy(prototypes), dim=1)
    edge = (unit @ unit.T > threshold).numpy()
    free, sizes = np.ones(len(edge), dtype=bool), []
    for i in range(len(edge)):
        if free[i]:
            takes = edge[i] & free
            takes[i] = True
            sizes.append(int(takes.sum()))
            free &= ~takes
    return len(sizes), max(sizes)


def measured(run: Callable[[], DuplicateSets]) -> tuple[DuplicateSets, float, float]:
    """(what came, seconds, GiB of resident memory above what was held before)."""
    before = _memory.begin()
    started = time.perf_counter()
    found = run()
    return found, time.perf_counter() - started, (_memory.peak() - before) / 2**10


def main() -> None:
    """Print the ratios and the memory for the planted set and for directions that are all different."""
    rng = np.random.default_rng(0)
    part = planted(rng)
    few = part[:6_000]
    found, seconds, _ = measured(functools.partial(duplicate_sets, few, THRESHOLD))
    started = time.perf_counter()
    plain = edges_stored(few, THRESHOLD)
    told = time.perf_counter() - started
    print(f"   6,000 rows: leader {seconds:.2f} s, all edges stored {told:.2f} s; equal: ", end="")
    print((found.num_unique, found.largest) == plain)
    different = rng.standard_normal((K, DIM), dtype=np.float32)
    unit = Directions(part).unit
    bare(unit[:8_192])
    for name, rows in (("planted", part), ("all different", different)):
        for method in METHODS:
            started = time.perf_counter()
            bare(unit)
            product = time.perf_counter() - started
            found, seconds, held = measured(functools.partial(duplicate_sets, rows, THRESHOLD, method=method))
            wanted = {"planted": 0.25, "all different": 3.0}[name] if method == "leader" else 4.0
            print(
                f"   {name}, {method}: {found.num_unique:,} unique, largest {found.largest:,}; {seconds:.1f} s = "
                f"{seconds / product:.3f} of the bare product ({product:.1f} s; wanted: at most {wanted:g}), "
                f"{held:.2f} GiB above the matrix (wanted: below 1)"
            )
            sys.stdout.flush()
