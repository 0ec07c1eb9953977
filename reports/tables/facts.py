"""Columns of the result view that say what a model is and costs, not how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evaltk.types import Result
from reports import comparable
from reports.table import Cell

PARAMETERS, SIZE = "params (M)", "px"
GFLOPS, RATE = "GFLOPs", "img/s"
COSTS = (
    f"{GFLOPS}: per image, two per multiply-add (papers often count one); {RATE}: decoding and forward pass, when the "
    "features were made; both are recorded where that takes 2 s or more"
)
Who = tuple[str, str]  # identity of a checkpoint


def known(
    who: Sequence[Who], results: Sequence[Result], there: set[int]
) -> list[tuple[str, list[Cell]]]:  # fmt: skip
    """Parameters and image size of the models, each where any result says it, sizes in `there` (ids)."""
    parameters: dict[Who, int] = {}
    sizes: dict[Who, dict[int, None]] = {}
    for result in results:
        one = comparable.identity(result)
        count = result.checkpoint.get("parameters")
        if isinstance(count, int) and not isinstance(count, bool):
            parameters[one] = count
        if id(result) in there:
            crops = [view.crop for view in result.preprocessing.views.values() if view.crop and not view.augmented]
            sizes.setdefault(one, {}).update(dict.fromkeys(crops))
    facts = []
    if parameters:
        known = [parameters.get(one) for one in who]
        small = max(count or 0 for count in known) < 1e6
        facts.append((PARAMETERS, [Cell() if count is None else
                                   Cell(value=count / 1e6, unit="million", digits=3 if small else 1)
                                   for count in known]))  # fmt: skip
    if any(sizes.values()):
        facts.append((SIZE, [_size(list(sizes.get(one, {}))) for one in who]))
    return facts


def costs(who: Sequence[Who], results: Sequence[Result]) -> list[tuple[str, list[Cell]]]:
    """Operations and images a second of the models, each where a result says it, the latest that does.

    Where the rates are of several devices, each says which.
    """
    found: dict[Who, tuple[Mapping[str, float], str]] = {}
    for result in sorted(results, key=lambda r: str(r.made.get("date", ""))):
        cost = result.made.get("cost")
        if isinstance(cost, Mapping) and all(
            isinstance(cost.get(k), int | float) for k in ("gflops", "images_per_second")
        ):
            found[comparable.identity(result)] = (cost, str(result.made.get("device", "")))
    several = len({device for cost, device in found.values()}) > 1
    operations, rates = [], []
    for one in who:
        cost, device = found.get(one, ({}, ""))
        operations.append(_number(cost.get("gflops")))
        rates.append(replace(_number(cost.get("images_per_second")), note=device if several else ""))
    return [(GFLOPS, operations), (RATE, rates)]


def _number(value: float | None) -> Cell:
    """A cell of a plain number with three significant digits, as far as these are decimals."""
    if value is None:
        return Cell()
    return Cell(
        value=float(value), unit="count", digits=0 if value >= 100 else 1 if value >= 10 else 3 if value < 1 else 2
    )


def _size(crops: list[int]) -> Cell:
    if len(crops) == 1:
        return Cell(value=float(crops[0]), unit="count", digits=0)
    return Cell(note="/".join(map(str, sorted(crops))))
