"""The claims of the paper, each with its tables, its figure and a verdict, from the cells' results alone.

A verdict is on the difference stated in the claim, paired by seed: "seen" where its 95 % interval is above 0,
"contradicted" where it is below, else "cannot be told". "Not seen": what is claimed to be there is there in no seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.evidence import figures, seeds
from benchmarks.evidence.seeds import Found, cell, over, paired, where
from reports.figures.style import Drawn
from reports.table import Cell, Table

SCORINGS, CENTRINGS = ("cosine", "linear", "vmf"), ("logit", "probability")
DINO = {"scoring": "cosine", "centering": "logit"}
VMF = {"scoring": "vmf", "centering": "probability"}
LINEAR = {"scoring": "linear", "centering": "probability"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim. paper: what it says and where. ran: which cells stand behind it. verdict: one line."""

    key: str
    title: str
    paper: str
    ran: str
    verdict: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Drawn, ...] = field(default=())


def all_claims(found: Sequence[Found], cost: Sequence[dict[str, Any]]) -> list[Claim]:
    """Every claim; those without results say that they were not run."""
    from benchmarks.evidence import mechanics

    return [
        _table1(found), _duplicates(found), _precision(found), _fewshot(found), _ibot(found),
        mechanics.stability(found), mechanics.cost(cost), mechanics.centre(found),
    ]  # fmt: skip


def ran_words(cells: Sequence[Found]) -> str:
    """Number of trainings, seeds, divergences and CPU time."""
    if not cells:
        return "Not run."
    numbers = sorted({c["seed"] for c in cells})
    diverged = sum(c["diverged"] is not None for c in cells)
    hours = sum(c["seconds"]["cpu"] for c in cells) / 3600
    gone = f"{diverged} diverged" if diverged else "none diverged"
    count = f"{len(cells)} training{'s' if len(cells) > 1 else ''}"
    steps = sorted({c["log"]["steps"] for c in cells if c["diverged"] is None})
    told = f"{count} of {' and '.join(f'{s:,}' for s in steps)} steps" if steps else count
    return f"{told}, seeds {', '.join(map(str, numbers))}, {gone}, {hours:.2f} CPU hours."


def _final(metric: str) -> seeds.Measure:
    def of(found: Found) -> float | None:
        course = found.get("course") or []
        return course[-1].get(metric) if course else None

    return of


def _knn(found: Found) -> float | None:
    return found.get("knn")


def _table1(found: Sequence[Found]) -> Claim:
    cells = where(found, group="table1")
    rows = tuple(
        (scoring, tuple(cell(over(where(cells, scoring=scoring, centering=c), _knn)) for c in CENTRINGS))
        for scoring in SCORINGS
    )
    gain = paired(where(cells, **DINO), where(cells, **VMF), _knn)
    constant = paired(where(cells, **LINEAR), where(cells, **VMF), _knn)
    table = Table(
        title="k-NN top-1 (%), k = 20, mean over seeds with 95 % interval",
        stub="prototypes",
        columns=CENTRINGS,
        rows=rows,
        digits=1,
    )
    return Claim(
        key="a",
        title="vMF scores with probability centring give the best k-NN accuracy",
        paper="Table 1: 70.87 % for vMF with probability centring, 70.18 % for DINO's own cells.",
        ran=ran_words(cells),
        tables=(table,) if cells else (),
        verdict=f"DINO-vMF over DINO (cosine, logit): {seeds.verdict(gain)}: {seeds.reason(gain, 'points')}. "
        f"With log C_p over without (linear, probability): {seeds.verdict(constant)}: "
        f"{seeds.reason(constant, 'points')}.",
    )


def _duplicates(found: Sequence[Found]) -> Claim:
    cells = where(found, group="table1")
    dino, vmf = where(cells, **DINO), where(cells, **VMF)
    rows = []
    for scoring in SCORINGS:
        for c in CENTRINGS:
            mine = where(cells, scoring=scoring, centering=c)
            void = [v for f in mine if (v := _final("void_share")(f)) is not None]
            counted = Cell(value=float(sum(v > 0 for v in void)), unit="count", digits=0, note=f"of {len(void)}")
            rows.append(
                (
                    f"{scoring}, {c}",
                    (
                        cell(over(mine, _final("unique_share"))),
                        cell(over(mine, _final("largest_share"))),
                        cell(over(mine, _final("void_cosine")), "count", 3),
                        cell(over(mine, _final("used_share"))),
                        counted if void else Cell(),
                    ),
                )
            )
    columns = ("unique (%)", "largest set (%)", "its cosine with the data mean", "assigned an image (%)", "void set")
    tables = [Table(title="Prototypes after the last step", stub="cell", columns=columns, rows=tuple(rows), digits=1)]
    tables += _sweeps(found)
    gain = paired(dino, vmf, _final("unique_share"))
    shares = [v for f in dino if (v := _final("void_share")(f)) is not None]
    there = (
        f"{seeds.SEEN} in {sum(v > 0 for v in shares)} of {len(shares)} seeds"
        if any(shares)
        else f"{seeds.NOT_SEEN} ({len(shares)} seeds)"
    )
    there = there if shares else f"{seeds.UNTOLD}: not run"
    drawn = figures.course(cells)
    return Claim(
        key="b",
        title="DINO's prototypes collapse into duplicates and a void set; vMF keeps more of them",
        paper="Table 4, Figures 6 and 7, section 5.2: the void set has a cosine of exactly -1 with the data mean.",
        ran=ran_words([f for f in found if f["group"] == "table1" or f["group"].startswith(("k-", "bottleneck-"))]),
        tables=tuple(tables) if cells else (),
        figures=(drawn,) if drawn else (),
        verdict=f"DINO's void set: {there}. More unique prototypes with vMF: {seeds.verdict(gain)}: "
        f"{seeds.reason(gain, 'points')}.",
    )


def _sweeps(found: Sequence[Found]) -> list[Table]:
    """K and bottleneck, DINO beside DINO-vMF; the value in the middle is table1's."""
    made = []
    for name, axis, middle, title in (
        ("k", "num_prototypes", 1024, "Number of prototypes K"),
        ("bottleneck", "bottleneck", 32, "Dimension p of the bottleneck"),
    ):
        swept = [f for f in found if f["group"].startswith(f"{name}-")]
        values = sorted({v for f in swept for key, v in f["values"].items() if key.endswith(axis)} | {middle})
        if not swept:
            continue
        rows = []
        for value in values:
            sides = []
            for side, settings in (("dino", DINO), ("vmf", VMF)):
                named: dict[str, Any] = {"group": f"{name}-{side}", axis: value}
                mine = where(found, group="table1", **settings) if value == middle else where(found, **named)
                sides += [cell(over(mine, _final(m))) for m in ("unique_share", "void_share", "used_share")]
            rows.append((f"{value:,}", tuple(sides)))
        columns = tuple(f"{s}: {w} (%)" for s in ("DINO", "vMF") for w in ("unique", "void set", "assigned an image"))
        made.append(Table(title=title, stub=axis, columns=columns, rows=tuple(rows), digits=1))
    return made


def _precision(found: Sequence[Found]) -> Claim:
    cells = where(found, group="table1")

    def rise(one: Found) -> float | None:
        """Accuracy of the highest percentile bin less that of the lowest; None where precisions are all equal."""
        bins = one.get("precision") or []
        return bins[-1][1] - bins[0][1] if len(bins) > 1 else None

    sides = {"linear": where(cells, **LINEAR), "vmf": where(cells, **VMF)}
    numbers = sorted({b for mine in sides.values() for f in mine for b, _, _ in f.get("precision") or []})
    rows = []
    for side, mine in sides.items():
        values = [over(mine, lambda f, b=b: next((v for n, v, _ in f["precision"] if n == b), None)) for b in numbers]  # type: ignore[misc]
        rows.append((f"{side}, probability", (*(cell(v) for v in values), cell(over(mine, rise)))))
    columns = (*(f"bin {b}" for b in numbers), "highest - lowest")
    table = Table(
        title="k-NN top-1 (%) by percentile of precision", stub="cell", columns=columns, rows=tuple(rows), digits=1
    )
    of_vmf, more = over(sides["vmf"], rise), paired(sides["linear"], sides["vmf"], rise)
    return Claim(
        key="c",
        title="Images of precise prototypes are classified better, with vMF",
        paper="Figure 2: k-NN accuracy by percentile of the precision of an image's prototype.",
        ran=ran_words([f for f in cells if f.get("precision")]),
        tables=(table,) if numbers else (),
        verdict=f"Accuracy rises with precision for vMF: {seeds.verdict(of_vmf)}: {seeds.reason(of_vmf, 'points')}. "
        f"More than for linear: {seeds.verdict(more)}: {seeds.reason(more, 'points')}. Images share few precisions "
        "here, so bins hold unequal numbers of them and may be missing.",
    )


def _fewshot(found: Sequence[Found]) -> Claim:
    cells = [f for f in where(found, group="table1") if f.get("fewshot")]
    shots = ("1", "2", "5")

    def of(k: str) -> seeds.Measure:
        return lambda f: (f.get("fewshot") or {}).get(k)

    rows = []
    for scoring in SCORINGS:
        for c in CENTRINGS:
            mine = where(cells, scoring=scoring, centering=c)
            rows.append((f"{scoring}, {c}", tuple(cell(over(mine, of(k))) for k in shots)))
    gains = {k: paired(where(cells, **DINO), where(cells, **VMF), of(k)) for k in shots}
    told = "; ".join(f"{k} per class: {seeds.verdict(g)}: {seeds.reason(g, 'points')}" for k, g in gains.items())
    columns = tuple(f"{k} per class" for k in shots)
    table = Table(
        title="Few-shot top-1 (%), mean over three draws", stub="cell", columns=columns, rows=tuple(rows), digits=1
    )
    return Claim(
        key="d",
        title="DINO-vMF is better than DINO with few labelled images",
        paper="Table 3: few-shot classification of ImageNet.",
        ran=ran_words(cells),
        tables=(table,) if cells else (),
        verdict=f"DINO-vMF over DINO, {told}.",
    )


def _ibot(found: Sequence[Found]) -> Claim:
    cells = [f for f in found if f["group"].startswith("ibot")]
    plain, vmf = where(cells, scoring="linear"), where(cells, scoring="vmf")
    gain = paired(plain, vmf, _knn)
    rows = tuple((name, (cell(over(mine, _knn)),)) for name, mine in (("iBOT", plain), ("iBOT-vMF", vmf)))
    table = Table(title="k-NN top-1 (%)", stub="method", columns=("k = 20",), rows=rows, digits=1)
    return Claim(
        key="e",
        title="iBOT-vMF is better than iBOT",
        paper="Tables 2 and 3.",
        ran=ran_words(cells),
        tables=(table,) if cells else (),
        verdict=f"{seeds.verdict(gain)}: {seeds.reason(gain, 'points') if cells else 'not run'}.",
    )


def finite(values: Sequence[float | None]) -> list[float]:
    """Those that are numbers."""
    return [v for v in values if v is not None and np.isfinite(v)]
