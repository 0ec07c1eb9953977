"""Seeded mutators: of bytes, and of trees of plain values. The same random state gives the same mutant."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

BOUNDS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
# What a field may hold instead of what it should.
WORDS: tuple[Any, ...] = (
    None, True, False, -1, 0, 1.5, -0.0, 10**30, 10**400, 1e308, float("nan"), float("inf"), "", "x", "knn", "digits",
    "../../x", "/etc/passwd", "a\0b", "\x1b[31m", "\u202e", "\ud800", "a" * 5000, "<script>alert(1)</script>", "=1+1",
    "{{7*7}}", "$\\input{x}$", [], {}, [1], [[1], [2, 3]], {"a": {}}, [None], ["1"],
)  # fmt: skip


def of_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to six edits: bits and bytes changed, ranges removed, copied or swapped, numbers at bounds, truncation."""
    b = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not b:
            break
        at, other = rng.randrange(len(b)), rng.randrange(len(b))
        edit = rng.randrange(8)
        if edit == 0:
            b[at] ^= 1 << rng.randrange(8)
        elif edit == 1:
            b[at] = rng.randrange(256)
        elif edit == 2:
            del b[at : at + rng.choice((1, 2, 4, 16, 256, len(b)))]
        elif edit == 3:
            b[at:at] = b[other : other + rng.choice((1, 4, 16, 64, 512))]
        elif edit == 4:
            b[at:at] = rng.randbytes(rng.choice((1, 4, 8)))
        elif edit == 5:
            size = rng.choice((1, 2, 4, 8))
            b[at : at + size] = (rng.choice(BOUNDS) % 256**size).to_bytes(size, rng.choice(("little", "big")))
        elif edit == 6:
            del b[at:]
        else:
            size = rng.choice((1, 4, 16))
            b[at : at + size], b[other : other + size] = b[other : other + size], b[at : at + size]
    return bytes(b)


def of_tree(rng: random.Random, tree: Any, words: tuple[Any, ...] = WORDS) -> Any:
    """A copy with one entry removed, renamed, doubled or replaced, at a place anywhere in it."""
    if isinstance(tree, dict) and tree:
        out, key = dict(tree), rng.choice(list(tree))
        edit = rng.randrange(6)
        if edit == 0:
            del out[key]
        elif edit == 1:
            out[key] = rng.choice(words)
        elif edit == 2:
            out[rng.choice(("x", f"{key}y"))] = out.pop(key)
        else:
            out[key] = of_tree(rng, out[key], words)
        return out
    if isinstance(tree, list | tuple) and tree:
        items, at = list(tree), rng.randrange(len(tree))
        edit = rng.randrange(5)
        if edit == 0:
            del items[at]
        elif edit == 1:
            items += items
        elif edit == 2:
            items[at] = rng.choice(words)
        else:
            items[at] = of_tree(rng, items[at], words)
        return items
    return rng.choice(words)


def of_array(rng: random.Random, a: np.ndarray) -> np.ndarray:
    """An array of another size, shape, kind or with other values."""
    edits = (
        lambda: a[:0] if a.ndim else a,
        lambda: a[:-1] if a.ndim else a,
        lambda: a.astype(np.float64) * np.nan if a.dtype.kind in "iuf" else a,
        lambda: a.astype(str),
        lambda: a.reshape(-1),
        lambda: np.concatenate([a, a]) if a.ndim else a,
        lambda: np.array(5),
        lambda: -a if a.dtype.kind in "if" else a,
        lambda: a.astype(complex) if a.dtype.kind in "iuf" else a,
        lambda: a[None],
        lambda: np.full(a.shape, "x"),
        lambda: np.full(a.shape, np.inf),
        lambda: a.astype(">f8") if a.dtype.kind in "iuf" else a,
        lambda: a.astype(bool) if a.dtype.kind in "iuf" else a,
    )
    return np.asarray(rng.choice(edits)())
