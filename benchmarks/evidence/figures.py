"""Figures of the evidence page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.evidence.seeds import Found, mean
from reports.figures.style import Drawn, legend_below, line, panels, style

PANELS = (("unique prototypes (%)", "unique_share"), ("largest set (%)", "largest_share"))


def course(cells: Sequence[Found]) -> Drawn | None:
    """Unique prototypes and largest set against the step, a line a scoring and centring, with intervals over seeds."""
    groups: dict[str, list[Found]] = {}
    for found in cells:
        if found.get("course"):
            name = f"{found['values']['method.scoring']}, {found['values']['method.centering']}"
            groups.setdefault(name, []).append(found)
    if not groups:
        return None
    with style():
        figure, axes = panels(2, height=3.0)
        for ax, (title, metric) in zip(axes, PANELS, strict=True):
            for n, (name, mine) in enumerate(groups.items()):
                steps = sorted({point["step"] for f in mine for point in f["course"]})
                means = [mean([p[metric] for f in mine for p in f["course"] if p["step"] == s]) for s in steps]
                values = np.array([100 * m.value for m in means if m is not None])
                ends = [m.interval or (m.value, m.value) for m in means if m is not None]
                error = np.abs(100 * np.array(ends).T - values)
                shift = (n - (len(groups) - 1) / 2) * 6
                ax.errorbar(
                    np.array(steps) + shift, values, yerr=error, label=name, capsize=2, elinewidth=0.6, **line(n)
                )  # type: ignore[arg-type]
            ax.set(xlabel="training step", ylabel=title, ylim=(-5, 105))
        legend_below(figure, axes[0])
    return Drawn(name="course", title="Prototypes against training step, 95 % intervals over seeds", figure=figure)
