"""Figures of prototypes: duplicates vs. threshold, precision, set sizes, usage, projection, gallery.

Each takes plain arrays by checkpoint label, as the result files' predictions hold them.
Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Figures 2, 6, 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, ScalarFormatter

from reports.figures.style import COLOURS, WIDTH, legend_below, line, panels, style
from reports.table import percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Counts against threshold: threshold [T] rising, unique [T], largest [T], of `num` prototypes."""

    threshold: np.ndarray
    unique: np.ndarray
    largest: np.ndarray
    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BinLine:
    """Accuracy by bin: value, low, high [B] as fractions, count [B] images, bin [B] its place from 1, of `bins`."""

    bin: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray
    bins: int


def thresholds(sweeps: Mapping[str, Sweep]) -> Figure:
    """Unique prototypes and the largest duplicate set vs. the cosine threshold (Figures 6 and 7)."""
    with style():
        figure, (unique, largest) = panels(2)
        for n, (label, sweep) in enumerate(sweeps.items()):
            unique.plot(sweep.threshold, sweep.unique, label=label, **line(n, label))
            largest.plot(sweep.threshold, sweep.largest, **line(n, label))
        for axes, title in ((unique, "unique prototypes"), (largest, "largest duplicate set")):
            axes.set_yscale("log")
            axes.set(xlabel="cosine threshold for duplicates", ylabel="prototypes")
            axes.set_title(title)
            _plain(axes.yaxis)
        legend_below(figure, unique)
    return figure


def precision(lines: Mapping[str, BinLine]) -> Figure:
    """k-NN top-1 by percentile bin of the precision of an image's prototype, with 95 % intervals (Figure 2)."""
    with style():
        figure, (axes,) = panels(1, height=2.8)
        for n, (label, one) in enumerate(lines.items()):
            middle = (one.bin - 0.5) * 100 / one.bins
            shift = (n - (len(lines) - 1) / 2) * 12 / one.bins
            error = percent(np.stack([one.value - one.low, one.high - one.value]))
            axes.errorbar(middle + shift, percent(one.value), yerr=error, label=label, capsize=2, **line(n, label))  # type: ignore[arg-type]
            axes.set_xticks(np.linspace(0, 100, one.bins + 1))
        axes.set(xlabel="percentile of κ of the image's prototype", ylabel="k-NN top-1 (%)", xlim=(0, 100))
        axes.set_title(next(iter(lines)) if len(lines) == 1 else "")
        legend_below(figure, axes, columns=2)
    return figure


def kappa_histogram(kappas: Mapping[str, np.ndarray]) -> Figure:
    """How the precisions kappa of all prototypes are spread; equal norms are one bar."""
    with style():
        figure, (axes,) = panels(1, height=2.6)
        low, high = (f(float(f(k)) for k in kappas.values()) for f in (min, max))
        wide = max(high - low, 1e-3 * high)
        edges = np.linspace(low - 0.02 * wide, high + 0.02 * wide, 81)
        for n, (label, kappa) in enumerate(kappas.items()):
            share = np.full(len(kappa), 100 / len(kappa))
            axes.hist(
                kappa, bins=list(edges), weights=share, histtype="stepfilled", alpha=0.2, color=line(n, label)["color"]
            )
            axes.hist(
                kappa,
                bins=list(edges),
                weights=share,
                histtype="step",
                label=label,
                color=line(n, label)["color"],
                linestyle=line(n, label)["linestyle"],
            )
        axes.set(xlabel="precision κ = ‖w‖/τ", ylabel="prototypes (%)")
        legend_below(figure, axes, columns=2)
    return figure


def set_sizes(sizes: Mapping[str, np.ndarray], threshold: float) -> Figure:
    """Sizes [S] of the duplicate sets, sorted, on logarithmic axes."""
    return _ranked(
        sizes, "duplicate set, by size", "prototypes in the set", f"duplicate sets at cosine > {threshold:g}"
    )


def usage(counts: Mapping[str, np.ndarray]) -> Figure:
    """Images assigned to each prototype [K], sorted, on logarithmic axes; the legend says how many have none."""
    used = {
        f"{label} ({int((c == 0).sum()):,} of {len(c):,} never used)": np.sort(c[c > 0])[::-1]
        for label, c in counts.items()
    }
    return _ranked(used, "prototype, by number of images", "images assigned", "prototype usage", always=True)


def _ranked(series: Mapping[str, np.ndarray], x: str, y: str, title: str, *, always: bool = False) -> Figure:
    with style():
        figure, (axes,) = panels(1, height=2.8)
        for n, (label, values) in enumerate(series.items()):
            rank = np.arange(1, len(values) + 1)
            # A line through 65,536 points says no more than one through where it bends.
            keep = np.unique(np.geomspace(1, len(values), 400).astype(int)) - 1 if len(values) > 400 else rank - 1
            look = line(n, label) | {"marker": ""}
            axes.step(rank[keep], values[keep], where="post", label=label, **look)  # type: ignore[arg-type]
            axes.plot([1], values[:1], color=look["color"], marker=line(n, label)["marker"])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set(xlabel=x, ylabel=y)
        axes.set_title(title)
        for axis in (axes.xaxis, axes.yaxis):
            _plain(axis)
        if always and len(series) == 1:
            axes.set_title(f"{title}: {next(iter(series))}")
        legend_below(figure, axes, columns=1)
    return figure


def projection(
    places: np.ndarray, share: np.ndarray, counts: np.ndarray, void: np.ndarray, *, title: str = ""
) -> Figure:
    """Prototypes [K, 2] along their two widest directions: those in use by images, those never used, the void set."""
    with style():
        figure, (axes,) = panels(1, height=3.4)
        dead = (counts == 0) & ~void
        axes.scatter(*places[dead].T, s=5, color="#b8b8b8", linewidths=0, label=f"never used ({int(dead.sum()):,})")
        used = counts > 0
        size = 4 + 40 * np.sqrt(counts[used] / max(1, counts.max()))
        axes.scatter(
            *places[used].T,
            s=size,
            color=COLOURS[0],
            alpha=0.55,
            linewidths=0,
            label=f"used ({int(used.sum()):,}), area grows with images",
        )
        if void.any():
            axes.scatter(
                *places[void].T, s=22, marker="x", color=COLOURS[1], linewidths=0.8, label=f"void set ({void.sum():,})"
            )
        axes.set(xlabel=f"1st direction ({_percent(share[0])})", ylabel=f"2nd direction ({_percent(share[1])})")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def gallery(kinds: Sequence[str], captions: Sequence[str], images: np.ndarray) -> Figure:
    """The images [G, M, h, w, 3] uint8 nearest to each of G prototypes, a row each, under the heading of its kind."""
    with style():
        rows, columns = images.shape[:2]
        figure = Figure(figsize=(WIDTH, WIDTH / (columns + 3.2) * rows + 0.3))
        grid = figure.add_gridspec(
            rows, columns + 1, width_ratios=[3.2, *[1.0] * columns], left=0.01, right=0.99, top=0.98, bottom=0.02
        )
        for row, (kind, caption) in enumerate(zip(kinds, captions, strict=True)):
            told = figure.add_subplot(grid[row, 0])
            told.set_axis_off()
            if row == 0 or kinds[row - 1] != kind:
                told.text(0, 0.95, kind, weight="bold", va="top", transform=told.transAxes)
            told.text(0, 0.62, caption, va="top", fontsize=6.5, color="#444444", transform=told.transAxes)
            for column in range(columns):
                axes = figure.add_subplot(grid[row, column + 1])
                axes.imshow(images[row, column], interpolation="nearest")
                axes.set_axis_off()
    return figure


class _Plain(ScalarFormatter):
    """1, 10, 1,000 and 100,000 on logarithmic axes: counts are not read as powers."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:,.0f}" if x >= 1 else ""


class _PlainBetween(LogFormatter):
    """The same between powers of ten, where an axis spans so little that these are labelled."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:,.0f}" if x >= 1 and super().__call__(x, pos) else ""


def _plain(axis: Axis) -> None:
    axis.set_major_formatter(_Plain())
    axis.set_minor_formatter(_PlainBetween())


def _percent(share: float) -> str:
    return f"{percent(float(share)):.0f} % of the variance"
