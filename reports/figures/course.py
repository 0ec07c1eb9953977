"""The course of a training: unique prototypes and the largest set of duplicates against the step."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from reports.figures.style import Drawn, legend_below, line, panels, shown, style
from reports.figures.training_log import Course

MOST = 7  # runs that are drawn; more could not be told apart


def of_logs(courses: Mapping[str, Course]) -> list[Drawn]:
    """The figure of all runs whose logs count prototypes; none without such a log."""
    if not courses:
        return []
    title = "prototypes during training"
    return [Drawn(name="prototypes-course", title=title, figure=draw(courses))]


def draw(courses: Mapping[str, Course]) -> Figure:
    """Two panels: unique prototypes (cosine at most 0.9 to each other) and the largest set, of each run."""
    kept = dict(list(courses.items())[:MOST])
    with style():
        figure, (unique, largest) = panels(2)
        for n, (name, course) in enumerate(kept.items()):
            label = shown(name) + (f" (K = {course.num:,})" if course.num else "")
            unique.plot(course.step, course.unique, label=label, **line(n, name))  # type: ignore[arg-type]
            largest.plot(course.step, course.largest, **line(n, name))  # type: ignore[arg-type]
        for axes, title in ((unique, "unique prototypes"), (largest, "largest set of duplicates")):
            axes.set(xlabel="training step", ylabel="prototypes")
            axes.set_ylim(bottom=0)
            axes.set_title(title if len(kept) == len(courses) else f"{title}, first {MOST} of {len(courses)} runs")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        legend_below(figure, unique, columns=2)
        if len(kept) == 1:
            figure.suptitle(shown(next(iter(kept))), fontsize=9)
    return figure
