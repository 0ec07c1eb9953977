"""Figures of scores: accuracy against k and shots, bars with intervals, and a run's trajectory over its epochs.

Results that are not comparable (other data, protocol version, settings, precision) never share a figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaltk.results import slug
from evaltk.types import Result, Score
from reports import comparable, layouts
from reports.figures import trajectories
from reports.figures.style import COLOURS, GREY, Drawn, legend_below, line, panels, shortened, shown, style
from reports.figures.training_log import TrainingLog
from reports.layouts import Layout
from reports.published import verdicts
from reports.table import percent
from reports.tables import cells, overviews

SWEPT = {
    "knn": "neighbours k",
    "fewshot": "images per class, or share of all images",
}  # protocol: axis label of its sweep
BARS = {  # protocol: (panel, metric)
    "retrieval": (("medium mAP", "medium_mAP"), ("hard mAP", "hard_mAP")),
    "vos": (("J&F", "J&F"), ("J", "J"), ("F", "F")),
    "linear": (("Lin.[C]", "C_top1"), ("Lin.[D]", "D_top1")),
}
SPREAD = {"top1_mean": "top1_std_sample"}  # means over splits are shown with their standard deviation
TOLD = len(COLOURS)  # series with their own colour and label
MOST_BARS = 24
LONGEST = 34  # letters of a name beside a row or in a legend


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: the settings it is drawn over [N], value, low, high [N], fractions (low = high: no interval)."""

    at: tuple[object, ...]
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: value and interval (None: unknown) as fractions; the published number, if comparable, in percent."""

    value: float
    interval: tuple[float, float] | None
    published: float | None


def of_results(found: Sequence[Result], *, logs: Mapping[str, TrainingLog]) -> Iterator[Drawn]:
    """Curves, bars and trajectories of the results, protocol by protocol. `logs`: by the name of the run."""
    taken: set[str] = set()
    for protocol, layout in layouts.protocols().items():
        groups = comparable.groups(found, layout)
        for group in groups:
            mine = comparable.conditions(group[0], layout)
            same = [comparable.conditions(g[0], layout) for g in groups]
            difference = comparable.describe_difference(
                mine, [one for one in same if one["dataset"] == mine["dataset"]]
            )
            title = f"{group[0].data.name}" + (f" [{difference}]" if difference else "")
            for kind, what, figure in _figures(protocol, layout, group, logs):
                name = _free(f"{kind}-{slug(group[0].data.name)}", taken)
                yield Drawn(name=name, title=f"{what} on {title}", figure=figure)


def _free(name: str, taken: set[str]) -> str:
    """`name`, or with a number behind it where it is taken; it is taken afterwards."""
    free = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
    taken.add(free)
    return free


def _figures(
    protocol: str, layout: Layout, group: Sequence[Result], logs: Mapping[str, TrainingLog]
) -> Iterator[tuple[str, str, Figure]]:
    """(kind, what it shows, figure) of comparable results."""
    if protocol in SWEPT and (series := swept(layout, group)):
        what = f"{layout.label} top-1 against {SWEPT[protocol]}"
        intervals = "± std over splits" if layout.metric in SPREAD else "95 % intervals"
        yield protocol, what, curves(series, SWEPT[protocol], f"{layout.label} top-1 (%)", intervals)
    if protocol in BARS and (shown_bars := _bars(layout, group)):
        yield protocol, f"{layout.label}, with 95 % intervals", bars(shown_bars)
    for extra in overviews.headlines(layout, group)[:1]:
        runs = trajectories.of_runs(group, extra)
        if not runs:
            continue
        unit = " (%)" if extra.unit == "%" else ""
        beside = {name: log for name, log in logs.items() if name in {run.name for run in runs}}
        label = f"{layout.label}: {extra.title.removesuffix(' (%)')}{unit}"
        figure = trajectories.draw(runs, label, extra.unit, beside, watched=protocol == "knn")
        yield f"trajectory-{protocol}", f"{layout.label} over pretraining epochs", figure


def swept(layout: Layout, group: Sequence[Result]) -> dict[str, Series]:
    """{label: the layout's metric over its sweep}; what else was varied makes lines of its own, named in the label."""
    found: dict[str, Series] = {}
    others = {s.at.get(layout.also) for r in group for s in comparable.scores(r, layout.metric)}
    for label, result in zip(comparable.labels(group), group, strict=True):
        apart: dict[object, list[Score]] = {}
        for score in comparable.scores(result, layout.metric):
            apart.setdefault(score.at.get(layout.also), []).append(score)
        for other, points in apart.items():
            points.sort(key=lambda s: _order(s.at.get(layout.sweep)))
            name = label if len(others) == 1 else f"{label}, {layout.also} {other}"
            ends = np.array([_ends(result, point) for point in points]).reshape(-1, 2)
            found[name] = Series(
                at=tuple(point.at.get(layout.sweep) for point in points),
                value=np.array([point.value for point in points]),
                low=ends[:, 0],
                high=ends[:, 1],
            )
    return found


def _ends(result: Result, score: Score) -> tuple[float, float]:
    """The score's interval, or its mean's deviation to both sides; its value where neither is known."""
    spread = comparable.scores(result, SPREAD.get(score.metric, ""), score.at)
    if spread:
        return score.value - spread[0].value, score.value + spread[0].value
    return score.interval or (score.value, score.value)


def _order(value: object) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def curves(series: Mapping[str, Series], x: str, y: str, intervals: str = "95 % intervals") -> Figure:
    """Values against a setting on a logarithmic axis; of many series the best have names and the rest is grey.

    Words among the settings (``1 %`` of the images) stand apart at the right: no line leads to them.
    """
    settings = sorted({at for one in series.values() for at in one.at}, key=_order)
    where = _places(settings)
    best = sorted(series, key=lambda label: -float(series[label].value.max()))[:TOLD]
    rest = [label for label in series if label not in best]
    with style():
        figure, (axes,) = panels(1, height=3.0)
        for n, label in enumerate(rest):
            told = f"{len(rest)} others" if n == 0 else "_"
            for part in _parts(series[label]):
                axes.plot(
                    [where[a] for a in part.at], percent(part.value), color=GREY, linewidth=0.6, alpha=0.6, label=told
                )
                told = "_"
        named = [label for label in series if label in best]
        for n, label in enumerate(named):
            shift = 0.0 if len(named) == 1 else 0.16 * (n / (len(named) - 1) - 0.5)
            look, told = line(n, label), shown(shortened(label, LONGEST))
            for part in _parts(series[label]):
                error = percent(np.stack([part.value - part.low, part.high - part.value]))
                at = np.array([where[value] for value in part.at]) + shift
                known = error if (error > 0).any() else None
                axes.errorbar(at, percent(part.value), yerr=known, label=told, capsize=1.5, elinewidth=0.7, **look)  # type: ignore[arg-type]
                told = "_"
        axes.set_xticks([where[one] for one in settings], [str(one) for one in settings])
        some = any((one.high > one.low).any() for one in series.values())
        axes.set(xlabel=x, ylabel=y, xlim=(-0.5, max(where.values(), default=0) + 0.5))
        axes.set_ylim(top=min(100.0, axes.get_ylim()[1]))
        axes.set_title(f"error bars: {intervals}" if some else "", loc="right", fontsize=7, color=GREY)
        axes.grid(axis="x", visible=False)
        if len(series) == 1:
            axes.set_title(shown(next(iter(series))))
        legend_below(figure, axes, columns=2)
    return figure


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _places(settings: Sequence[object]) -> dict[object, float]:
    """Where each setting stands: positive numbers by their logarithm, a step apart where they double; else evenly."""
    numbers = [float(one) for one in settings if _is_number(one)]  # type: ignore[arg-type]
    words = [one for one in settings if not _is_number(one)]
    if numbers and min(numbers) > 0:
        places = {one: float(np.log2(float(one) / min(numbers))) for one in settings if _is_number(one)}  # type: ignore[arg-type]
    else:
        places = {one: float(i) for i, one in enumerate(one for one in settings if _is_number(one))}
    end = max(places.values(), default=-1.0)
    return places | {one: end + 1.0 + i for i, one in enumerate(words)}


def _parts(one: Series) -> Iterator[Series]:
    """The points at numbers, which a line joins, and each other point."""
    numbers = [i for i, at in enumerate(one.at) if _is_number(at)]
    for kept in ([numbers] if numbers else []) + [[i] for i in range(len(one.at)) if i not in numbers]:
        yield Series(at=tuple(one.at[i] for i in kept), value=one.value[kept], low=one.low[kept], high=one.high[kept])


def _bars(layout: Layout, group: Sequence[Result]) -> dict[str, dict[str, Bar]]:
    """{panel: {checkpoint: its bar}}; panels of which nothing was measured are left out."""
    found: dict[str, dict[str, Bar]] = {}
    extras = {extra.metric: extra for extra in layout.extra}
    for label, result in zip(comparable.labels(group), group, strict=True):
        for panel, metric in BARS[layout.protocol]:
            for score in comparable.scores(result, metric)[:1]:
                cell = cells.of_extra(extras[metric], result, score)
                twin = cell.published if cell.verdict != verdicts.NOT_COMPARABLE else None
                bar = Bar(value=score.value, interval=cell.interval, published=twin)
                found.setdefault(panel, {})[label] = bar
    return found


def bars(found: Mapping[str, Mapping[str, Bar]]) -> Figure:
    """One panel per metric, a row per checkpoint, best first: value, interval and published number."""
    first = next(iter(found.values()))
    every = dict.fromkeys(label for panel in found.values() for label in panel)
    order = sorted(every, key=lambda label: -first[label].value if label in first else np.inf)
    kept = order[:MOST_BARS]
    with style():
        height = 0.9 + 0.22 * len(kept)
        figure, axes = panels(len(found), height=height, width=4.8 if len(found) == 1 else 1.6 + 2.2 * len(found))
        for axis, (title, panel) in zip(axes, found.items(), strict=True):
            _panel(axis, [(row, label, panel[label]) for row, label in enumerate(kept) if label in panel])
            axis.set_title(title)
            axis.set(xlabel="%", ylim=(len(kept) - 0.4, -0.6))
            low, high = axis.get_xlim()
            axis.set_xlim(max(0.0, low), min(100.0, high))
            names = [shown(shortened(label, LONGEST)) for label in kept]
            axis.set_yticks(range(len(kept)), names if axis is axes[0] else [""] * len(kept))
            axis.grid(axis="y", visible=False)
        if len(order) > len(kept):
            figure.suptitle(f"the best {len(kept)} of {len(order)} checkpoints", fontsize=8)
        if any(bar.published is not None for panel in found.values() for bar in panel.values()):
            axes[0].plot([], [], color=GREY, marker="d", linestyle="none", label="published, in parentheses")
            figure.legend(loc="outside lower center")
    return figure


def _panel(axis: Axes, rows: Sequence[tuple[int, str, Bar]]) -> None:
    """The points of a panel, each with its number at the right."""
    for row, label, bar in rows:
        value = percent(bar.value)
        ends = percent(np.array(bar.interval)) if bar.interval else np.array([value, value])
        error = np.abs(ends - value).reshape(2, 1)
        look = {**line(row, label), "linestyle": "none"}
        axis.errorbar([value], [row], xerr=error if bar.interval else None, capsize=1.5, elinewidth=0.8, **look)  # type: ignore[arg-type]
        if bar.published is not None:
            axis.plot([bar.published], [row], color=GREY, marker="d", linestyle="none")
        told = f"{value:.1f}" + ("" if bar.published is None else f" ({bar.published:.1f})")
        text = axis.annotate(told, (1.02, row), xycoords=("axes fraction", "data"), va="center")
        text.set_fontsize(7)
    axis.margins(x=0.15)
