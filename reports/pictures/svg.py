"""Drawings of the page as SVG without inline styles, which a strict content policy allows: rows, pairs, clouds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup, escape

from evaltk.errors import printable
from reports.pictures.album import Photo

SIDE = 104  # height of a tile in pixels
PAIRED = 240  # height of the images of a pair
GAP = 6
LINE = 14  # of text
LETTER = 6.3  # mean width of a letter of 11 px
COLOURS = 20  # classes that have a colour of their own
CLOUD = (440, 360)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One picture of a row.

    Attributes:
        photo: what lies at the bottom; None: only layers. layers: data URIs that are stretched over it.
        size: (width, height) that gives the aspect ratio where there is no photo.
        foot: lines of text below. mark: a frame around it, a class of the style. words: said on pointing at it.
    """

    photo: Photo | None = None
    layers: tuple[str, ...] = ()
    size: tuple[int, int] = (1, 1)
    foot: tuple[str, ...] = ()
    mark: Literal["", "good", "hard", "junk", "bad"] = ""
    words: str = ""

    @property
    def aspect(self) -> float:
        """Width over height."""
        width, height = (self.photo.width, self.photo.height) if self.photo else self.size
        return width / height


def row(tiles: Sequence[Tile], label: str) -> Markup:
    """Tiles side by side. label: the drawing in words."""
    lines = max((len(tile.foot) for tile in tiles), default=0)
    parts, x = [], 0.0
    for tile in tiles:
        width = SIDE * tile.aspect
        parts.append(_tile(tile, x, width))
        x += width + GAP
    return _svg(parts, x - GAP, SIDE + lines * LINE + (4 if lines else 0), label)


def _tile(tile: Tile, x: float, width: float) -> str:
    box = f'x="{x:.1f}" y="0" width="{width:.1f}" height="{SIDE}"'
    inside = [f"<title>{_text(tile.words)}</title>"] if tile.words else []
    if tile.photo:
        inside.append(f'<use href="#{tile.photo.symbol}" {box}/>')
    inside += [f'<image class="map" href="{uri}" {box} preserveAspectRatio="none"/>' for uri in tile.layers]
    if tile.mark:
        frame = f'x="{x + 1.5:.1f}" y="1.5" width="{width - 3:.1f}" height="{SIDE - 3}"'
        inside.append(f'<rect class="frame {tile.mark}" {frame}/>')
    room = max(4, int(width / LETTER))
    for number, text in enumerate(tile.foot, 1):
        short = text if len(text) <= room else f"{text[: room - 1]}…"
        inside.append(f'<text x="{x + width / 2:.1f}" y="{SIDE + number * LINE}">{_text(short)}</text>')
    return f"<g>{''.join(inside)}</g>"


def pair(left: Photo, right: Photo, lines: Sequence[tuple[float, float, float, float, str]], label: str) -> Markup:
    """Two images side by side with lines between points.

    Args:
        lines: (x, y) in the left and (x, y) in the right image, as shares of width and height; what is said of it.
    """
    widths = [PAIRED * photo.width / photo.height for photo in (left, right)]
    start = widths[0] + 4 * GAP
    parts = [
        f'<use href="#{photo.symbol}" x="{x:.1f}" y="0" width="{width:.1f}" height="{PAIRED}"/>'
        for photo, x, width in ((left, 0.0, widths[0]), (right, start, widths[1]))
    ]
    for number, (xa, ya, xb, yb, words) in enumerate(lines):
        a, b = (xa * widths[0], ya * PAIRED), (start + xb * widths[1], yb * PAIRED)
        ends = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in (a, b))
        line = f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"/>'
        parts.append(f'<g class="match c{number % COLOURS}"><title>{_text(words)}</title>{line}{ends}</g>')
    return _svg(parts, start + widths[1], PAIRED, label)


def cloud(points: np.ndarray, classes: np.ndarray, words: Sequence[str], label: str) -> Markup:
    """Points [N, 2] with the colours of classes [N] (-1: none), each with words of its own."""
    width, height = CLOUD
    low, high = points.min(axis=0), points.max(axis=0)
    spread = np.where(high > low, high - low, 1)
    at = (points - low) / spread * (width - 20, height - 20) + 10
    parts = [
        f'<circle class="{f"c{c}" if c >= 0 else "rest"}" cx="{x:.1f}" cy="{height - y:.1f}" r="3">'
        f"<title>{_text(text)}</title></circle>"
        for (x, y), c, text in zip(at.tolist(), classes.tolist(), words, strict=True)
    ]
    return _svg([f'<g class="cloud">{"".join(parts)}</g>'], width, height, label)


def _svg(parts: Sequence[str], width: float, height: float, label: str) -> Markup:
    sizes = f'viewBox="0 0 {width:.1f} {height:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return Markup(f'<svg class="drawing" role="img" aria-label="{_text(label)}" {sizes}>{"".join(parts)}</svg>')


def _text(text: str) -> Markup:
    return escape(printable(text))
