"""Figures of the von Mises-Fisher distribution itself: densities on the circle, and log C_p with its approximation.

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Figures 3, 4, 5.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from matplotlib.figure import Figure

from reports.figures.style import DASHES, GREY, line, panels, style


class Circle(Protocol):
    """angle [N] in radians, kappa [C], density [C, N] per radian (`evaltk.prototypes.vmf_curves.CircleDensities`)."""

    @property
    def angle(self) -> np.ndarray: ...
    @property
    def kappa(self) -> np.ndarray: ...
    @property
    def density(self) -> np.ndarray: ...


class Normalizer(Protocol):
    """kappa [N]; dims (P); approximate, error [P, N] in nats (`evaltk.prototypes.vmf_curves.NormalizerCurves`)."""

    @property
    def kappa(self) -> np.ndarray: ...
    @property
    def dims(self) -> tuple[int, ...]: ...
    @property
    def approximate(self) -> np.ndarray: ...
    @property
    def error(self) -> np.ndarray: ...


def circle(data: Circle) -> Figure:
    """Densities on the circle (Figure 3): how far outside the circle a line runs is the density there."""
    with style():
        figure, (flat, round_) = panels(2, height=2.9)
        peak = float(data.density.max())
        round_.plot(np.cos(data.angle), np.sin(data.angle), color=GREY, linewidth=0.8)
        for n, (kappa, density) in enumerate(zip(data.kappa, data.density, strict=True)):
            look = line(n) | {"marker": "", "linestyle": DASHES[n % len(DASHES)]}
            flat.plot(np.degrees(data.angle), density, label=f"κ = {kappa:g}", **look)
            radius = 1 + density / peak
            round_.plot(radius * np.cos(data.angle), radius * np.sin(data.angle), **look)
        flat.set(xlabel="angle from the mean direction (degrees)", ylabel="density (per radian)")
        flat.set_xticks([-180, -90, 0, 90, 180])
        flat.set_title("over the angle")
        flat.legend()
        round_.annotate("", (0.92, 0), (0, 0), arrowprops={"arrowstyle": "->", "color": GREY})
        round_.text(0.42, 0.1, "μ", color=GREY, ha="center")
        round_.set_aspect("equal")
        round_.set_axis_off()
        round_.set_title("outward from the unit circle")
    return figure


def normalizer(data: Normalizer) -> Figure:
    """log C_p and the error of its approximation over kappa, one line per dimension (Figures 4 and 5)."""
    with style():
        figure, (value, error) = panels(2, height=2.9)
        for n, p in enumerate(data.dims):
            look = line(n) | {"marker": "", "linestyle": DASHES[n % 2 * 1]}
            value.plot(data.kappa, data.approximate[n], label=f"p = {p}", **look)
            error.plot(data.kappa, 1e3 * data.error[n], **look)
        value.set(xlabel="κ", ylabel="log $C_p$(κ) (nats)")
        value.set_title("approximate log-normaliser")
        error.axhline(0, color=GREY, linewidth=0.6)
        error.set(xlabel="κ", ylabel="error (10⁻³ nats)")
        error.set_title("approximate minus exact")
        handles, labels = value.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
