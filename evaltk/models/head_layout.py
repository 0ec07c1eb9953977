"""What a projection head's tensors are called and how large they are, and what is wrong with those of a file.

A layer that is skipped, a bias or a running variance that is missing would not stop a head from giving numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

Shapes = Mapping[str, tuple[int, ...]]

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
PROTOTYPES = ("prototypes.", "patch_prototypes.")


def dino(shapes: Shapes) -> tuple[str, ...]:
    """Prefixes of the layers of DINO's and iBOT's MLP in their order (dino/vision_transformer.py:257-291).

    ``mlp.`` for a single layer, else Linear GELU Linear ... (0, 2, 4) or Linear BN GELU Linear ... (0, 1, 3, 4, 6).
    Where keys are missing the result has gaps filled: `faults` names them.
    """
    if "mlp.weight" in shapes:
        return ("mlp.",)
    numbers = sorted({int(m[1]) for key in shapes if (m := re.match(r"mlp\.(\d{1,3})\.", key))})
    if not numbers:
        return ("mlp.0.",)
    normed = any(re.fullmatch(r"mlp\.\d+\.running_(mean|var)", key) for key in shapes)
    period = (0, 1) if normed else (0,)
    expected = [i for i in range(numbers[-1] + 1) if i % (len(period) + 1) in period]
    return tuple(f"mlp.{i}." for i in expected)


def msn(shapes: Shapes) -> tuple[str, ...]:
    """Prefixes of MSN's projector: fc1 [bn1] fc2 [bn2] fc3 (msn/src/deit.py)."""
    if any(key.startswith("bn") for key in shapes):
        return ("fc1.", "bn1.", "fc2.", "bn2.", "fc3.")
    return ("fc1.", "fc2.", "fc3.")


def rows(shapes: Shapes, prefix: str) -> int:
    """Number of prototypes under `prefix`, 0 where there are none."""
    shape = shapes.get(f"{prefix}weight") or shapes.get(f"{prefix}weight_v") or (0,)
    return shape[0]


def faults(shapes: Shapes, order: tuple[str, ...], *, width: int | None, patches: bool) -> list[str]:
    """What is missing, of another shape or left over, in words; empty where the head is whole.

    Args:
        order: prefixes of the MLP's layers. width: of the tokens that enter, or None.
        patches: whether prototypes for patches may be there beside those for the class token.
    """
    known: set[str] = set()
    found = list(_mlp(shapes, order, width, known))
    last = shapes.get(f"{order[-1]}weight", (0, 0))
    for prefix in PROTOTYPES[: 1 + patches]:
        if prefix == PROTOTYPES[0] or any(key.startswith(prefix) for key in shapes):
            found += _prototypes(shapes, prefix, last[0] if last else 0, known)
    return found + [f"{key} {shapes[key]} left over" for key in shapes if key not in known]


def _mlp(shapes: Shapes, order: tuple[str, ...], width: int | None, known: set[str]) -> Iterator[str]:
    biases = any(f"{prefix}bias" in shapes for prefix in order)
    for prefix in order:
        normed = f"{prefix}running_mean" in shapes or f"{prefix}running_var" in shapes or prefix.startswith("bn")
        weight = shapes.get(f"{prefix}weight")
        expected: dict[str, tuple[int | None, ...]]
        if normed:
            out, expected = width, dict.fromkeys(BATCH_NORM, (width,))
            known.add(f"{prefix}num_batches_tracked")
        else:
            out = weight[0] if weight else None
            expected = {"weight": (out, width)} | ({"bias": (out,)} if biases else {})
        for name, shape in expected.items():
            known.add(f"{prefix}{name}")
            yield from _compare(shapes, f"{prefix}{name}", shape)
        width = out


def _prototypes(shapes: Shapes, prefix: str, dim: int, known: set[str]) -> Iterator[str]:
    count = rows(shapes, prefix)
    expected: dict[str, tuple[int, ...]] = {f"{prefix}weight": (count, dim)}
    if f"{prefix}weight" not in shapes:
        expected = {f"{prefix}weight_g": (count, 1), f"{prefix}weight_v": (count, dim)}
    for key, shape in expected.items():
        known.add(key)
        yield from _compare(shapes, key, shape)


def _compare(shapes: Shapes, key: str, wanted: tuple[int | None, ...]) -> Iterator[str]:
    got = shapes.get(key)
    if got is None:
        yield f"{key} missing"
    elif len(got) != len(wanted) or any(w not in (None, g) for w, g in zip(wanted, got, strict=True)) or 0 in got:
        yield f"{key} {got} for {tuple('any' if w is None else w for w in wanted)}"
