"""One look for all figures: colours the colour-blind can tell apart, text that stays text, files without a date."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaltk import files
from evaltk.errors import SettingsError, nearest, printable

# Okabe and Ito's palette without its yellow, which is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
GREY = "#767676"
WIDTH = 6.4  # inches, two panels side by side
KEY, LETTER = 0.5, 0.06  # inches of a legend's line beside its words, and of a letter of these
FORMATS = ("svg", "pdf", "png")
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text, not outlines: it can be searched, read aloud and restyled
    "pdf.fonttype": 42,
    "svg.hashsalt": "evaltk",  # the same figure gives the same bytes
}

_MODELS: ContextVar[tuple[str, ...]] = ContextVar("models", default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A figure with the name its files get and a title in words, on one line without control characters."""

    name: str
    title: str
    figure: Figure

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", printable(self.title))  # no XML may hold them


@contextmanager
def style() -> Iterator[None]:
    """Make figures inside with the house's settings; matplotlib's own are as before afterwards."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        yield


def panels(count: int = 1, *, height: float = 2.6, width: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side; sizes in inches."""
    figure = Figure(figsize=(width or (WIDTH if count > 1 else 0.6 * WIDTH), height), layout="constrained")
    return figure, [figure.add_subplot(1, count, n + 1) for n in range(count)]


@contextmanager
def one_look(models: Sequence[str]) -> Iterator[None]:
    """Inside, `line` gives each of these models the same colour, marker and dash in every figure."""
    token = _MODELS.set(tuple(models))
    try:
        yield
    finally:
        _MODELS.reset(token)


def line(index: int, name: str = "") -> dict[str, str]:
    """Colour, marker and dash of the series `index`: they differ in more than colour.

    name: of the model it shows, whose look is everywhere the same (`one_look`). A series may add a setting behind it;
    a training run is named by the folder of its checkpoints.
    """
    known = _MODELS.get()
    if name and known:
        index = next((i for i, model in enumerate(known) if _is_of(name, model)), index + len(known))
    dash = DASHES[index % len(DASHES)]
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": dash}


def _is_of(name: str, model: str) -> bool:
    return name == model or name.startswith((f"{model} ", f"{model},")) or model.startswith(f"{name}/")


def shortened(name: str, most: int) -> str:
    """A name of at most `most` letters, shortened in the middle."""
    left = (most - 1) // 2
    return name if len(name) <= most else f"{name[:left]}…{name[len(name) - (most - 1 - left) :]}"


def shown(name: str) -> str:
    """A name as a label: between two dollars matplotlib would read mathematics, after `_` it would show nothing."""
    text = printable(name).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """One legend for all panels, under them, in as many columns as fit; none for a single series."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        fitting = int(figure.get_figwidth() // (KEY + LETTER * max(map(len, labels))))
        ncols = max(1, min(columns, len(labels), fitting))
        figure.legend(handles, labels, loc="outside lower center", ncols=ncols)


def render(figure: Figure, form: str, *, title: str = "", dpi: int = 150) -> bytes:
    """The figure's bytes. Raises: SettingsError: another format than svg, pdf or png."""
    if form not in FORMATS:
        raise SettingsError(wanted="a format", got=repr(form), where="--format", do=nearest(form, FORMATS))
    stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[form]
    buffer = io.BytesIO()
    with warnings.catch_warnings(), style():
        if form == "svg":  # its text stays text, for which a browser has other fonts
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        with _laid_out(figure):
            figure.savefig(buffer, format=form, dpi=dpi, metadata=stamp | ({"Title": title} if title else {}))
    return buffer.getvalue()


@contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Places given to all that is in the figure, and kept: where it has a layout engine, matplotlib draws it twice."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


def save(figure: Figure, path: Path, forms: Sequence[str], *, title: str = "") -> list[Path]:
    """Write the figure as `path` with each format's ending, whole or not at all. Raises: as `render`; StorageError."""
    written = []
    for form in forms:
        target = path.with_name(f"{path.name}.{form}")
        files.write(target, functools.partial(_put, data=render(figure, form, title=title)))
        written.append(target)
    return written


def _put(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
