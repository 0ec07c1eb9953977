"""The page of pictures in Chromium, at the widths of a phone and a desk, light and dark (make browser)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import chromium
import numpy as np
import pytest
from result_files import knn, write

from evaltk import results
from reports.page.build import build_page
from reports.pictures import album, page, svg
from reports.pictures.page import Drawing, Group, Section

browser_only = pytest.mark.skipif(not chromium.PROGRAM, reason="needs Chromium (Debian: apt-get install chromium)")
NAME = "<b onclick='x'>ü"


def text_of(runs: Path | None = None, number: int = 16, side: int = 224) -> str:
    """The page of pictures, or the page of one result with the pictures in it."""
    rng = np.random.default_rng(0)
    book = album.Album()
    noise = [rng.integers(0, 256, (side, side + 40, 3), dtype=np.uint8) for _ in range(number)]
    rows = []
    for pixels in noise:
        photo, maps = book.add(pixels), rng.random((7, 14, 16))
        tiles = [svg.Tile(photo=photo, foot=("image", NAME), mark="good", words=NAME)]
        tiles += [svg.Tile(layers=(album.heat(m),), size=(264, 224), foot=("a long name of some class",)) for m in maps]
        tiles += [svg.Tile(photo=photo, layers=(album.outside(m > 0.5),)) for m in maps]
        rows.append(Group(title=NAME, drawings=(Drawing(name=NAME, svg=svg.row(tiles, NAME)),) * 2))
    a, b = (book.add(p) for p in noise[:2])
    pair = svg.pair(a, b, [(0.1, 0.2, 0.3, 0.4, "cosine 0.9")], NAME)
    drawn = Drawing(name="", svg=pair)
    cloud = svg.cloud(rng.normal(size=(50, 2)), np.arange(50) % 21 - 1, [NAME] * 50, NAME)
    sections = [
        Section(name="rows", title="Rows", about=NAME, groups=tuple(rows), missing=(NAME,)),
        Section(name="pairs", title="Pairs", about="", groups=(Group(title="", drawings=(drawn,)),)),
        Section(
            name="map",
            title="Map",
            about="",
            groups=(Group(title="", drawings=(Drawing(name=NAME, svg=cloud),)),) * 2,
            legend=(("c0", NAME), ("rest", "others")),
            beside=True,
        ),
    ]
    title = f"{NAME} {'long' * 30}"
    if runs is None:
        return page.build(sections, book.symbols(), title=title, checkpoints=[(NAME, NAME)], notes=[NAME])
    write(runs, [(knn(), {})])
    pictures = page.inset(sections, book.symbols(), title=title, checkpoints=[(NAME, NAME)], notes=[NAME])
    return build_page(list(results.find(runs)), runs=runs, pictures=pictures)


def test_a_page_is_small_and_escapes_names(tmp_path: Path) -> None:
    alone, report = text_of(), text_of(tmp_path)
    assert alone == text_of()
    for text in (alone, report):
        assert len(text.encode()) < 5_000_000 and NAME not in text
        assert text.count("<symbol") == 16  # each photograph once
    assert re.findall('id="(rows|pairs|map)"', alone) == ["rows", "pairs", "map"]
    assert len(set(found := re.findall(' id="([^"]+)"', report))) == len(found) and "pictures-map" in found


def test_photographs_are_made_smaller_until_they_fit() -> None:
    rng = np.random.default_rng(0)
    book = album.Album()
    for _ in range(4):
        book.add(rng.integers(0, 256, (500, 400, 3), dtype=np.uint8))
    assert len(book.symbols()) > 400_000 and len(book.symbols(100_000)) < 102_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    made = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.mark.browser
@browser_only
@pytest.mark.parametrize("within", [False, True])
def test_in_the_browser(browser: chromium.Browser, tmp_path: Path, within: bool) -> None:
    path = tmp_path / "page.html"
    path.write_text(text_of(tmp_path / "runs" if within else None), encoding="utf-8")
    inks = set()
    for width in (390, 1280):
        for dark in (False, True):
            browser.look(width, dark=dark)
            browser.open(path)
            assert browser.complaints() == [] and browser.requests() == []
            assert browser.run("document.documentElement.scrollWidth") <= width  # rows scroll, the page does not
            inks.add(browser.run("getComputedStyle(document.querySelector('svg.drawing text')).fill"))
    assert len(inks) == 2
    assert browser.run(
        "[...document.querySelectorAll('use')].every(u => document.querySelector(u.getAttribute('href')))"
    )
    assert browser.run("getComputedStyle(document.querySelector('.map')).imageRendering") == "pixelated"
    assert browser.run("document.querySelector('svg.drawing use').getBoundingClientRect().height") > 100
