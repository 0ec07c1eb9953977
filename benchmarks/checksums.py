"""What checking costs: the checksums of a cache entry against reading it, and against k-NN with it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from evaltk import checksums

ROWS, QUERIES, WIDTH = 200_000, 2_000, 384


def seconds(work: Callable[[], object]) -> float:
    """The best of three."""
    found = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def main() -> None:
    """Print both ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32))
        checksums.list_folder(folder)
        check = seconds(lambda: checksums.check_folder(folder))
        read = seconds(lambda: np.load(folder / "x.npy"))
        x = torch.from_numpy(np.load(folder / "x.npy"))
        started = time.perf_counter()
        for start in range(0, QUERIES, 500):
            (x[start : start + 500] @ x.T).topk(20)
        knn = time.perf_counter() - started
    few, many = (100 * check / (knn * number / QUERIES) for number in (QUERIES, 50_000))
    print(f"   checking {ROWS:,} x {WIDTH}: {check / read:.2f} of reading it")
    print(f"   {few:.1f} % of a plain k-NN of {QUERIES:,} queries, {many:.2f} % of one of 50,000")
