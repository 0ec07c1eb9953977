"""Figures inside the page: SVG without inline styles, so that a strict content policy allows it and themes apply."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from evaltk.errors import StorageError
from evaltk.types import Result
from reports.figures import collect, features, scores, style
from reports.figures.style import Drawn
from reports.figures.training_log import TrainingLog
from reports.page.alt_texts import describe_figure

MOST = 30  # figures of scores on a page
COMPARED = 4  # checkpoints of one dataset whose prototypes are drawn
POINTS = 1500  # of a cloud that are drawn one by one; a larger cloud is an image
WIDE = 350  # points; a wider figure takes the whole width of the page, and scrolls on a phone
SINGLE, WHOLE = 4.4, 9.0  # inches of a figure of half the page's width, and of all of it
LONGEST = 56  # letters of a title or legend's entry
MARGIN = 12  # points around the panels
SCALE = 1.9  # pixels per point, so that letters are of one size in all figures
GRID = "#e4e4e4"
REFERENCE = re.compile(r"url\(#([^)]+)\)")
NUMBER = re.compile(r"-?\d+\.\d{3,}")
PALETTE = {colour.lower(): str(n) for n, colour in enumerate(style.COLOURS[:-1])} | {style.GREY: "grey"}
HREF = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A figure on the page: its title, its alternative text and the SVG.

    Attributes:
        wide: whether it has several panels. narrow: the same with its panels one below the other, for a phone.
    """

    title: str
    words: str
    svg: Markup
    wide: bool
    narrow: Markup | None = None


def figures_of_scores(results: Sequence[Result], logs: Mapping[str, TrainingLog]) -> tuple[list[Shown], int]:
    """(figures of scores and trajectories, number of figures omitted)."""
    shown: list[Shown] = []
    left = 0
    for drawn in scores.of_results(results, logs=logs):
        if len(shown) < MOST:
            shown.append(inline(drawn, f"score-{len(shown) + 1}"))
        else:
            left += 1
    return shown, left


def figures_of_analyses(
    found: Sequence[tuple[Path, Result]],
    read: Callable[[Path], Mapping[str, np.ndarray]],
    complain: Callable[[StorageError], object],
) -> tuple[list[Shown], int]:
    """(figures of prototypes, precision and features, number of results omitted beyond the first few of a dataset)."""
    kept: list[tuple[Path, Result]] = []
    number: dict[tuple[str, str], int] = {}
    for path, result in found:
        if result.protocol in ("prototypes", "precision", *features.PROTOCOLS) or features.calibrated(result):
            key = result.protocol, result.data.name
            number[key] = number.get(key, 0) + 1
            if number[key] <= COMPARED:
                kept.append((path, result))
    drawn = collect.of_analyses(kept, read=read, galleries=False, complain=complain)
    shown = [inline(d, f"analysis-{n}") for n, d in enumerate(drawn, 1)]
    return shown, sum(number.values()) - len(kept)


def inline(drawn: Drawn, name: str) -> Shown:
    """A figure as an SVG element whose ids start with `name`, with title and description for screen readers."""
    words = describe_figure(drawn.figure) or drawn.title
    _flatten(drawn.figure)
    _shorten(drawn.figure)
    inches, height = drawn.figure.get_size_inches()
    engine = drawn.figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=MARGIN / 72)  # a browser may have another font, whose letters are wider
    drawn.figure.set_size_inches(WHOLE if 72 * inches > WIDE else SINGLE, height * (1.0 if inches > SINGLE else 1.15))
    svg, wide = _svg(drawn, name, words)
    if wide and _stacked(drawn.figure):
        narrow, _ = _svg(drawn, f"{name}-narrow", words)
        return Shown(title=drawn.title, words=words, svg=svg, wide=True, narrow=narrow)
    return Shown(title=drawn.title, words=words, svg=svg, wide=wide)


def _svg(drawn: Drawn, name: str, words: str) -> tuple[Markup, bool]:
    """(the figure as it is laid out now, whether it is wide)."""
    root = ET.fromstring(style.render(drawn.figure, "svg"))
    _clean(root, name)
    width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
    wide = width > WIDE
    root.attrib = {
        "class": "figure wide" if wide else "figure",
        "role": "img",
        "aria-labelledby": f"{name}-title",
        "aria-describedby": f"{name}-words",
        "viewBox": root.attrib["viewBox"],
        "width": f"{SCALE * width:.0f}",
        "height": f"{SCALE * height:.0f}",
        "stroke-linejoin": "round",
    }
    title, desc = ET.Element("title", id=f"{name}-title"), ET.Element("desc", id=f"{name}-words")
    title.text, desc.text = drawn.title, words
    root[:0] = [title, desc]
    return Markup(ET.tostring(root, encoding="unicode")), wide


def _stacked(figure: Figure) -> bool:
    """Put panels that stand side by side one below the other; whether there are such, and nothing else."""
    places = [axes.get_subplotspec() for axes in figure.axes]
    count = len(places)
    if count < 2 or any(p is None or p.get_gridspec().get_geometry() != (1, count) for p in places):
        return False
    grid, first = figure.add_gridspec(count, 1), figure.axes[0]
    ticks, labels = first.get_yticks(), [text.get_text() for text in first.get_yticklabels()]
    for n, axes in enumerate(figure.axes):
        axes.set_subplotspec(grid[n])
        if not any(text.get_text() for text in axes.get_yticklabels()) and len(axes.get_yticks()) == len(ticks):
            axes.set_yticks(ticks, labels)  # it shares those of its neighbour
    _, height = figure.get_size_inches()
    figure.set_size_inches(SINGLE, count * height)
    return True


def _shorten(figure: Figure) -> None:
    """Shorten names that would be wider than the figure; its description has them whole."""
    texts = [axes.title for axes in figure.axes]
    legends = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()))]
    texts += [text for legend in legends for text in legend.get_texts()]
    for text in texts:
        if len(text.get_text()) > LONGEST:
            text.set_text(style.shortened(text.get_text(), LONGEST))


def _flatten(figure: Figure) -> None:
    """Turn large clouds of points into images: 65,536 elements are slow to open and heavy to send."""
    for axes in figure.axes:
        for artist in axes.collections:
            if isinstance(artist, PathCollection) and len(np.atleast_2d(artist.get_offsets())) > POINTS:
                artist.set_rasterized(True)


def _clean(root: ET.Element, name: str) -> None:
    """Names without namespaces, attributes for styles, ids that no other figure has, nothing that is not drawn."""
    for parent in root.iter():
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    used = {found for element in root.iter() for found in _references(element)}
    for element in root.iter():
        element.tag = _local(element.tag)
        _restyle(element)
        if element.get("id") in used:
            element.set("id", f"{name}-{element.get('id')}")
        else:
            element.attrib.pop("id", None)
        if (target := element.attrib.pop(HREF, None)) is not None:
            element.set("href", f"#{name}-{target[1:]}" if target.startswith("#") else target)
        for key in ("d", "x", "y", "transform", "clip-path"):
            if key in element.attrib:
                element.set(key, _shorter(REFERENCE.sub(rf"url(#{name}-\1)", element.get(key, ""))))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        element.tail = None if element.tag != "tspan" else element.tail
        if element.tag not in ("text", "tspan"):
            element.text = None


def _references(element: ET.Element) -> Iterator[str]:
    yield from REFERENCE.findall(element.get("clip-path", ""))
    if (target := element.get(HREF, "")).startswith("#"):
        yield target[1:]


def _restyle(element: ET.Element) -> None:
    """`style` as attributes of their own; black and white become theme colours."""
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key and key != "font-family":
            element.set(key, value)
    for key in ("fill", "stroke"):
        colour = element.get(key)
        if colour in ("#000000", "#444444"):
            element.set(key, "currentColor")
        elif colour == "#ffffff":
            element.set(key, "none")
        elif colour == GRID:
            element.set("class", "grid")
        elif (place := PALETTE.get(str(colour).lower())) is not None:  # a colour of its own in each theme
            del element.attrib[key]
            element.set("class", f"{element.get('class', '')} {key[0]}{place}".strip())
    if element.tag == "text" and "fill" not in element.attrib:
        element.set("fill", "currentColor")


def _shorter(text: str) -> str:
    return " ".join(NUMBER.sub(lambda m: f"{float(m[0]):.2f}", text).split())


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
