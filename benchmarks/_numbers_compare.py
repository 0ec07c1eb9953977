"""Two folders of `benchmarks.numbers` side by side: which numbers differ, and by how much."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._numbers_record import read

SHOWN = 12  # images, or lines of a text, that are named of each array


@dataclass(frozen=True)
class Change:
    """How far two arrays of one name are apart; `relative` is to the largest element of either.

    Attributes:
        elements: how many differ, of `size`. absolute, relative: the largest difference. told: what else to say.
    """

    name: str
    elements: int
    size: int
    absolute: float
    relative: float
    told: str = ""

    @property
    def group(self) -> str:
        """GROUP of the name, and for results the protocol."""
        return group_of(self.name)


def group_of(name: str) -> str:
    """The kind of number: of results the protocol and what of it, else the first word of its name."""
    parts = name.split("/")
    if len(parts) > 3 and parts[3] in ("scores", "predictions", "settings", "notes"):
        return f"{parts[2].partition('-')[0]}: {parts[3]}"
    if parts[0].startswith("pretrain"):
        return f"pretraining: {parts[1]}"
    return f"{parts[0]}: {parts[1]}" if parts[:2] == ["vos", "masks"] else parts[0]


def compare(a: Path, b: Path) -> tuple[list[Change], list[str], dict[str, int]]:
    """(arrays that differ, what is to be said of texts and of names that only one has, arrays of each group)."""
    (ours, our_texts), (theirs, their_texts) = read(a), read(b)
    sizes: dict[str, int] = defaultdict(int)
    for name in ours:
        sizes[group_of(name)] += 1
    changes = [
        change
        for name in ours
        if name in theirs and (change := _change(name, ours[name], theirs[name], ours.get(f"{name}.margin")))
    ]
    words = [f"only in {a}: {name}" for name in sorted((ours.keys() - theirs) | (our_texts.keys() - their_texts))]
    words += [f"only in {b}: {name}" for name in sorted((theirs.keys() - ours) | (their_texts.keys() - our_texts))]
    for name in sorted(our_texts.keys() & their_texts):
        if our_texts[name] != their_texts[name]:
            words += _diff(name, our_texts[name], their_texts[name])
    return changes, words, dict(sizes)


def _change(name: str, a: np.ndarray, b: np.ndarray, margin: np.ndarray | None) -> Change | None:
    if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
        told = f"{a.dtype} {list(a.shape)} became {b.dtype} {list(b.shape)}"
        return Change(name, max(a.size, b.size), a.size, float("nan"), float("nan"), told)
    x, y = a.astype(np.float64), b.astype(np.float64)
    differ = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    if not differ.any():
        return None
    with np.errstate(invalid="ignore"):
        apart = np.abs(x - y)[differ]
    finite = np.concatenate([np.abs(v[np.isfinite(v)]).ravel() for v in (x, y)])
    largest, scale = float(apart.max()), float(finite.max()) if len(finite) else 0.0
    told = (
        _items(a, b, differ, margin)
        if ("/predictions/" in name or name.startswith("vos/masks")) and a.dtype.kind in "iub"
        else ""
    )
    return Change(name, int(differ.sum()), a.size, largest, largest / scale if scale else float("nan"), told)


def _items(a: np.ndarray, b: np.ndarray, differ: np.ndarray, margin: np.ndarray | None) -> str:
    """Which items of a prediction differ, from what to what, and by what margin it had been decided."""
    found = []
    for at in np.argwhere(differ)[:SHOWN]:
        place = tuple(int(i) for i in at)
        told = "" if margin is None else f" (margin {float(margin[place]):.2g})"
        found.append(f"{','.join(map(str, place))}: {a[place]} -> {b[place]}{told}")
    return "; ".join(found) + (" ..." if differ.sum() > SHOWN else "")


def _diff(name: str, a: str, b: str) -> Iterator[str]:
    lines = list(difflib.unified_diff(a.splitlines(), b.splitlines(), f"A {name}", f"B {name}", lineterm="", n=0))
    yield from lines[: 2 + 3 * SHOWN]
    if len(lines) > 2 + 3 * SHOWN:
        yield f"... {len(lines) - 2 - 3 * SHOWN} more lines of {name}"


def by_group(changes: list[Change], sizes: dict[str, int]) -> list[str]:
    """A table of the groups in which something differs, as Markdown."""
    lines = ["| group | arrays that differ | largest difference | relative |", "|---|---|---|---|"]
    groups: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        groups[change.group].append(change)
    for group, of in sorted(groups.items()):
        absolute, relative = (np.nanmax([getattr(c, k) for c in of] + [0.0]) for k in ("absolute", "relative"))
        lines.append(f"| {group} | {len(of)} of {sizes.get(group, 0)} | {absolute:.2g} | {relative:.2g} |")
    return lines


def matrix(told: Mapping[str, tuple[list[Change], list[str], dict[str, int]]]) -> list[str]:
    """A table of kinds of numbers by settings: how many arrays differ and the largest relative difference."""
    lines = [f"| numbers | arrays | {' | '.join(told)} |", "|---" * (2 + len(told)) + "|"]
    sizes = {group: size for _, _, of in told.values() for group, size in of.items()}
    for group in sorted(sizes):
        cells = []
        for changes, _, _ in told.values():
            of = [change for change in changes if change.group == group]
            relative = max((c.relative for c in of if c.relative == c.relative), default=float("nan"))
            cells.append(f"{len(of)}: {relative:.0e}" if of else "")
        lines.append(f"| {group} | {sizes[group]} | {' | '.join(cells)} |")
    lines.append(f"| lines of texts | | {' | '.join(str(len(words) or '') for _, words, _ in told.values())} |")
    return lines
