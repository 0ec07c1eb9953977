"""The page of pictures: sections of drawings, several checkpoints side by side; nothing is loaded from elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from reports.page.build import TEMPLATES, content_digest, environment
from reports.page.inset import Inset

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A drawing, and what it is of: a checkpoint, or what is said of it; "" where the group says it."""

    name: str
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Drawings of one image, pair or checkpoint, under one heading."""

    title: str
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One kind of picture.

    Attributes:
        name: id of its heading. about: how to read it. missing: checkpoints without such pictures, and why.
        legend: (class of a colour, name) of the colours used. beside: whether groups stand beside each other.
    """

    name: str
    title: str
    about: str
    groups: tuple[Group, ...]
    missing: tuple[str, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    beside: bool = False


def build(
    sections: Sequence[Section],
    symbols: Markup,
    *,
    title: str,
    checkpoints: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> str:
    """The page. Args: symbols: see `Album.symbols`. checkpoints: (name, what it is). The same values, the same text."""
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8") + _style()
    policy = (
        f"default-src 'none'; style-src '{content_digest(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    values = {"sections": sections, "symbols": symbols, "title": title, "checkpoints": checkpoints, "notes": notes}
    return _template("pictures.html.jinja").render(values, style=Markup(style), policy=policy)


def inset(
    sections: Sequence[Section],
    symbols: Markup,
    *,
    title: str,
    checkpoints: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> Inset:
    """The same as a part of the page of results; arguments as `build`."""
    values = {"sections": sections, "symbols": symbols, "title": title, "checkpoints": checkpoints, "notes": notes}
    return Inset(body=Markup(_template("inset.html.jinja").render(values)), style=_style())


def _style() -> str:
    return (HERE / "pictures.css").read_text(encoding="utf-8")


@functools.cache
def _template(name: str) -> jinja2.Template:
    return environment().overlay(loader=jinja2.FileSystemLoader(HERE)).get_template(name)
