"""Claims on how training behaves: stability, cost, and what the centre takes away of log C_p."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.evidence import seeds
from benchmarks.evidence.claims import Claim, finite, ran_words
from benchmarks.evidence.seeds import Found, Mean, cell, over, paired, where
from reports.table import Cell, Table

DEAR = 1.05  # ratio of times from which the constant is not called cheap


def _log(key: str) -> seeds.Measure:
    return lambda found: found["log"][key]


def stability(found: Sequence[Found]) -> Claim:
    """(f): linear scores without and with the constant, at rising learning rates and widths."""
    cells = [f for f in found if f["group"].startswith("stability")]
    keys = sorted({(f["group"], f["values"].get("optim.lr", 0.03), f["values"]["method.scoring"]) for f in cells})
    rows = []
    for group, lr, scoring in keys:
        mine = [f for f in where(cells, group=group, scoring=scoring) if f["values"].get("optim.lr", 0.03) == lr]
        wide = ", width 192" if group.endswith("wide") else ""
        gone = sum(f["diverged"] is not None for f in mine)
        rows.append(
            (
                f"lr {lr:g}{wide}, {'with' if scoring == 'vmf' else 'without'} log C_p",
                (
                    Cell(value=float(gone), unit="count", digits=0, note=f"of {len(mine)}"),
                    cell(over(mine, _log("kappa_max")), "count", 1),
                    cell(over(mine, _log("grad_norm_max")), "count", 1),
                    cell(over(mine, _log("last_loss")), "count", 2),
                ),
            )
        )
    without, with_it = (where(cells, scoring=s) for s in ("linear", "vmf"))
    drops = _by_condition(without, with_it)
    lost = [sum(f["diverged"] is not None for f in side) for side in (without, with_it)]
    columns = ("diverged", "largest kappa", "largest gradient norm of a tensor", "last loss")
    table = Table(title="Stability", stub="cell", columns=columns, rows=tuple(rows), digits=1)
    return Claim(
        key="f",
        title="log C_p keeps the precisions bounded and training stable",
        paper="Sections 3.2 and 3.3: without the constant, a norm that grows raises a prototype's scores at no cost.",
        ran=ran_words(cells),
        tables=(table,) if cells else (),
        verdict=f"Smaller largest kappa with log C_p: {seeds.verdict(drops)}: {seeds.reason(drops, 'in kappa')}; "
        f"diverged without {lost[0]} of {len(without)}, with {lost[1]} of {len(with_it)}.",
    )


def _by_condition(without: Sequence[Found], with_it: Sequence[Found]) -> Mean | None:
    """Mean over seeds of largest kappa without less with the constant, each seed averaged over learning rates."""
    kappa = _log("kappa_max")
    per_seed = []
    for seed in sorted({f["seed"] for f in without} & {f["seed"] for f in with_it}):
        of = {
            (side, f["group"], f["values"].get("optim.lr")): kappa(f)
            for side, cells in (("a", without), ("b", with_it))
            for f in cells
            if f["seed"] == seed
        }
        pairs = [(v, of.get(("b", *key[1:]))) for key, v in of.items() if key[0] == "a"]
        both = [x - y for x, y in pairs if x is not None and y is not None]
        per_seed += [float(np.mean(both))] if both else []
    return seeds.mean(per_seed)


def cost(measured: Sequence[dict[str, Any]]) -> Claim:
    """(g): the time of a step's scores and loss with the constant over that without."""
    rows, ratios, highest = [], [], 0.0
    for one in measured:
        linear, vmf = np.array(one["linear"]), np.array(one["vmf"])
        ratio = seeds.mean((vmf / linear).tolist())
        highest = max(highest, ratio.interval[1] if ratio is not None and ratio.interval else 2.0)
        ratios.append(float(np.median(vmf) / np.median(linear)))
        medians = (Cell(value=1e3 * float(np.median(v)), unit="count", digits=1) for v in (linear, vmf))
        share = Cell(value=ratios[-1], unit="count", digits=3)
        rows.append((f"{one['K']:,}", (*medians, share, cell(ratio, "count", 3))))
    columns = ("without (ms)", "with log C_p (ms)", "ratio of medians", "mean of paired ratios")
    table = Table(title="CPU time of scores and loss", stub="K", columns=columns, rows=tuple(rows))
    what = (
        f"{measured[0]['rows']} rows, p = {measured[0]['dim']}, forward and backward, alternating" if measured else ""
    )
    repeats = f"{len(measured[0]['linear'])} repeats on one CPU thread, {what}." if measured else "Not run."
    told = seeds.SEEN if highest < DEAR else seeds.UNTOLD
    return Claim(
        key="g",
        title="log C_p costs next to nothing",
        paper="Section 3.3: one number per prototype and step.",
        ran=repeats,
        tables=(table,) if measured else (),
        verdict=(
            f"{told}: ratios of medians {', '.join(f'{r:.3f}' for r in ratios)}; the intervals of the mean paired "
            f"ratio reach up to {highest:.3f}, and are to stay below {DEAR:g}. A whole step has the nets besides."
            if ratios
            else f"{seeds.UNTOLD}: not run."
        ),
    )


def centre(found: Sequence[Found]) -> Claim:
    """(h): how much of log C_p the centre takes away."""
    cells = [f for f in where(found, group="table1", scoring="vmf") if f.get("centre")]

    def of(key: str) -> seeds.Measure:
        return lambda f: f["centre"][key]

    rows = []
    for c in ("logit", "probability"):
        mine = where(cells, centering=c)
        numbers = (cell(over(mine, of("eaten")), "count", 3), cell(over(mine, of("changed"))))
        rows.append((c, (*numbers, cell(over(mine, of("constant_std")), "count", 2))))
    columns = ("slope of the centre on log C_p", "choices changed by log C_p (%)", "spread of log C_p (nats)")
    table = Table(
        title="What the centre takes away of log C_p", stub="centring", columns=columns, rows=tuple(rows), digits=1
    )
    left = paired(where(cells, centering="probability"), where(cells, centering="logit"), of("eaten"))
    taken = finite([of("eaten")(f) for f in where(cells, centering="probability")])
    also = f" Probability centring takes {np.mean(taken):.3f} of it." if taken else ""
    return Claim(
        key="h",
        title="Centring logits takes log C_p away again; centring probabilities takes less",
        paper="Section 3.4.",
        ran=ran_words(cells),
        tables=(table,) if cells else (),
        verdict=f"Logit centring takes more than probability centring: {seeds.verdict(left)}: "
        f"{seeds.reason(left, 'in the slope', 3)}.{also}",
    )
