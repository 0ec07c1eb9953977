"""Means and differences over seeds, with t intervals, and what they say about a claim."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from reports.table import Cell

SEEN, NOT_SEEN, CONTRADICTED, UNTOLD = "seen at this scale", "not seen", "contradicted", "cannot be told"
Verdict = Literal["seen at this scale", "not seen", "contradicted", "cannot be told"]
FEWEST = 3  # seeds that have an interval: with two it is 12.7 standard errors wide to each side
Found = Mapping[str, Any]  # a cell's result
Measure = Callable[[Found], "float | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Mean of n values; interval: 95 %, by Student's t over seeds; None below `FEWEST` values."""

    value: float
    interval: tuple[float, float] | None
    n: int


def mean(values: Sequence[float]) -> Mean | None:
    """`Mean` of finite values; None without any."""
    kept = np.array([v for v in values if np.isfinite(v)], dtype=float)
    if not len(kept):
        return None
    m = float(kept.mean())
    if len(kept) < FEWEST:
        return Mean(value=m, interval=None, n=len(kept))
    half = float(stats.t.ppf(0.975, len(kept) - 1) * kept.std(ddof=1) / np.sqrt(len(kept)))
    return Mean(value=m, interval=(m - half, m + half), n=len(kept))


def where(found: Iterable[Found], **values: object) -> list[Found]:
    """The cells of a group whose axes have these values, by seed; `group` is one of them."""
    kept = []
    for cell in found:
        told = {axis.rpartition(".")[2]: value for axis, value in cell["values"].items()} | {"group": cell["group"]}
        if values.items() <= told.items():
            kept.append(cell)
    return sorted(kept, key=lambda cell: cell["seed"])


def over(cells: Iterable[Found], measure: Measure) -> Mean | None:
    """Mean of a measure over the cells in which it was taken."""
    return mean([value for cell in cells if (value := measure(cell)) is not None])


def paired(a: Sequence[Found], b: Sequence[Found], measure: Measure) -> Mean | None:
    """Mean of measure(b) - measure(a) over the seeds that both have."""
    of_a = {cell["seed"]: measure(cell) for cell in a}
    of_b = {cell["seed"]: measure(cell) for cell in b}
    both = [(of_a[seed], of_b[seed]) for seed in of_a if seed in of_b]
    return mean([y - x for x, y in both if x is not None and y is not None])


def verdict(difference: Mean | None) -> Verdict:
    """On the claim that a difference is above 0: by whether its interval is."""
    if difference is None or difference.interval is None:
        return UNTOLD
    low, high = difference.interval
    return SEEN if low > 0 else CONTRADICTED if high < 0 else UNTOLD


def reason(difference: Mean | None, unit: str, digits: int = 1) -> str:
    """The difference in words."""
    if difference is None:
        return "no pair of cells is finished"
    scale = 100 if unit == "points" else 1
    value = f"{scale * difference.value:+.{digits}f} {unit}"
    if difference.interval is None:
        return f"{value} over {difference.n} seed{'s' if difference.n > 1 else ''}, too few for an interval"
    low, high = (scale * end for end in difference.interval)
    return f"{value} (95 % interval {low:+.{digits}f} to {high:+.{digits}f}, {difference.n} seeds, paired)"


def cell(found: Mean | None, unit: str = "%", digits: int = 1) -> Cell:
    """A cell of a table; the number of seeds is noted where it is below three."""
    if found is None:
        return Cell(unit=unit, digits=digits)
    note = "" if found.n >= 3 else f"{found.n} seed{'s' if found.n > 1 else ''}"
    return Cell(value=found.value, interval=found.interval, unit=unit, digits=digits, note=note)
