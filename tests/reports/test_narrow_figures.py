"""Figures of several panels on a phone, and figures that would show nothing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from result_files import made

from evaltk.types import Result, Score
from reports.figures import collect, style
from reports.figures.style import Drawn
from reports.page.figures import inline


def test_panels_stand_one_below_the_other_where_there_is_no_room() -> None:
    with style.style():
        figure, axes = style.panels(2)
        for ax, title in zip(axes, ("left", "right"), strict=True):
            ax.plot([1, 2], [0, 1])
            ax.set_title(title)
        axes[0].set_yticks([0, 1], ["DINO", "iBOT"])
        axes[1].set_yticks([0, 1], ["", ""])
        shown = inline(Drawn(name="two", title="two panels", figure=figure), "figure-1")
    assert shown.wide and shown.narrow is not None
    sizes = [
        [float(n) for n in re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()] for svg in (shown.svg, shown.narrow)
    ]  # type: ignore[union-attr]
    assert sizes[1][0] < 350 < sizes[0][0] and sizes[1][1] > 1.5 * sizes[0][1]
    assert (shown.svg.count("DINO"), shown.narrow.count("DINO")) == (1, 2)  # each panel has its own names there
    assert 'id="figure-1-narrow-title"' in shown.narrow
    with style.style():
        figure, _ = style.panels(1)
        alone = inline(Drawn(name="one", title="one panel", figure=figure), "figure-2")
    assert not alone.wide and alone.narrow is None


def result(largest: float) -> Result:
    scores = [
        Score(dataset="toy", split="weights", metric=metric, value=v, n=40, at={"threshold": t, "reading": "leader"})
        for t in (0.5, 0.9)
        for metric, v in (("unique_count", 41 - largest), ("largest_count", largest))
    ]
    return made("net", "prototypes", "toy", scores, settings={"threshold": 0.9})


def drawn(largest: int) -> list[str]:
    rng = np.random.default_rng(0)
    arrays = {
        "kappa": rng.gamma(9, 3, 40),
        "sizes_leader_0.9": np.array([largest, *[1] * (40 - largest)]),
        "counts": np.arange(40),
        "projection": rng.standard_normal((40, 2)),
        "projection_share": np.array([0.5, 0.2]),
        "void": np.zeros(40, dtype=bool),
    }
    made = collect.of_analyses([(Path("a.json"), result(largest))], read=lambda path: arrays, galleries=False)
    return [one.title for one in made]


def test_duplicates_are_drawn_only_where_there_are_some() -> None:
    shown = {"duplicates vs. threshold", "sizes of duplicate sets"}
    assert shown <= set(drawn(7)) and not shown & set(drawn(1)) and "prototype usage" in drawn(1)
