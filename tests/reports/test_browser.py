"""The page in a real browser: it opens without complaint, sorts by click and key, folds, has two themes, prints."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import chromium
import numpy as np
import pytest
from result_files import knn, predicted, retrieval, write
from test_page import HOSTILE, prototypes

from evaltk import results
from reports import paired
from reports.formats import render
from reports.page.build import build_page
from reports.tables.build import build_overview

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not chromium.PROGRAM, reason="needs Chromium (Debian: apt-get install chromium)"),
]
ORDER = "[...document.querySelectorAll('table.evaltk')[{t}].tBodies[0].rows].map(r => r.cells[{c}].dataset.value ?? r.cells[{c}].textContent)"  # noqa: E501
CUT = "[...document.querySelectorAll('.scroll')].filter(s => s.querySelector('table') && s.scrollWidth > s.clientWidth + 1).map(s => s.getAttribute('aria-label'))"  # noqa: E501
BUTTON = "document.querySelectorAll('table.evaltk')[{t}].tHead.rows[0].cells[{c}].querySelector('button')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    made = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    right = np.arange(200) % 5 > 0
    parts = [right & (np.arange(200) % (i + 2) > 0) for i in range(4)]
    pairs = [predicted(n, p, request=f"{i}" * 64) for i, (n, p) in enumerate(zip(HOSTILE, parts, strict=True))]
    write(folder, [*pairs, (knn(), {}), (retrieval(), {}), prototypes("net")])
    return folder


@pytest.fixture(scope="module")
def file(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    skipped = [(runs / "half.json", "JSONDecodeError")]
    path.write_text(build_page(list(results.find(runs)), runs=runs, skipped=skipped), encoding="utf-8")
    return path


def test_it_opens_without_a_complaint_and_asks_for_nothing(browser: chromium.Browser, file: Path) -> None:
    for width in (390, 768, 1280):
        for dark in (False, True):
            browser.look(width, dark=dark)
            browser.open(file)
            assert browser.complaints() == [] and browser.requests() == []
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.run(CUT) == []
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_foreign_code_would_not_run(browser: chromium.Browser, file: Path, tmp_path: Path) -> None:
    text = file.read_text(encoding="utf-8")
    bad = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'><p style='color: red' id=styled>x</p>"
    path = tmp_path / "bad.html"
    path.write_text(text.replace("</main>", f"{bad}</main>"), encoding="utf-8")
    browser.open(path)
    assert browser.run("window.ran === undefined")
    assert len(browser.complaints()) >= 3  # the policy said no: to the script, the handler, the image
    assert browser.run("getComputedStyle(document.getElementById('styled')).color") != "rgb(255, 0, 0)"


def test_numbers_are_the_csv_s(browser: chromium.Browser, file: Path, runs: Path) -> None:
    browser.open(file)
    found = list(results.find(runs))
    made = build_overview([r for _, r in found], predictions=paired.beside(found, pytest.fail))
    lines = csv.DictReader(io.StringIO(render.render_all(made, "csv")))
    wanted = Counter(f"{line['table']}|{float(line['value'])}" for line in lines if line["value"])
    there = browser.run(
        "[...document.querySelectorAll('#tables ~ .group:not(:has(#papers, #classes)) td[data-value]')].map(d =>"
        " [d.closest('table').caption.textContent, d.dataset.value, d.querySelector('.value')?.textContent])"
    )
    assert Counter(f"{table}|{float(value)}" for table, value, _ in there) == wanted
    assert all(abs(float(value) - float(said)) <= 0.5 for _, value, said in there)


def test_a_click_sorts(browser: chromium.Browser, file: Path) -> None:
    browser.open(file)
    titles = browser.run("[...document.querySelectorAll('table.evaltk')].map(t => t.caption.textContent)")
    t = next(i for i, title in enumerate(titles) if title.startswith("k-NN top-1") and "digits" in title)
    before = browser.run(ORDER.format(t=t, c=1))
    numbers = sorted(map(float, before))
    assert len(set(numbers)) > 2 and list(map(float, before)) != numbers[::-1]
    header = BUTTON.format(t=t, c=1)
    browser.run(f"{header}.click()")
    assert list(map(float, browser.run(ORDER.format(t=t, c=1)))) == numbers[::-1]
    assert browser.run(f"{header}.parentElement.getAttribute('aria-sort')") == "descending"
    assert re.match("Sorted by k=20, descending", browser.run("document.getElementById('status').textContent"))
    browser.run(f"{header}.focus()")
    browser.press("Enter", 13, "\r")  # by the keyboard
    assert list(map(float, browser.run(ORDER.format(t=t, c=1)))) == numbers
    names = sorted(browser.run(ORDER.format(t=t, c=0)))
    browser.run(f"{BUTTON.format(t=t, c=0)}.click()")
    assert browser.run(f"{header}.parentElement.hasAttribute('aria-sort')") is False
    assert sorted(browser.run(ORDER.format(t=t, c=0))) == names
    assert browser.run(f"{BUTTON.format(t=t, c=0)}.parentElement.getAttribute('aria-sort')") == "ascending"


def test_what_is_empty_stays_below(browser: chromium.Browser, file: Path) -> None:
    browser.open(file)
    t = browser.run(
        "[...document.querySelectorAll('table.evaltk')].findIndex(t => t.caption.textContent.startsWith('Results'))"
    )
    assert browser.run(ORDER.format(t=t, c=1)).count("-") >= 1
    title = browser.run(f"document.querySelectorAll('table.evaltk')[{t}].tBodies[0].rows[0].cells[1].dataset.label")
    headers = f"[...document.querySelectorAll('table.evaltk')[{t}].tHead.querySelectorAll('th')]"
    for _ in range(2):
        browser.run(f"{headers}.find(h => h.dataset.title === {title!r}).querySelector('button').click()")
        found = browser.run(ORDER.format(t=t, c=1))
        assert found[-found.count("-") :] == ["-"] * found.count("-")


def test_details_fold_by_click_key_and_all_at_once(browser: chromium.Browser, file: Path) -> None:
    browser.open(file)
    last = "document.querySelector('#provenance').parentElement.querySelector('details')"
    seen = f"{last}.querySelector('table').checkVisibility()"
    assert browser.run(f"{last}.open") is False and browser.run(seen) is False
    browser.run(f"{last}.querySelector('summary').click()")
    assert browser.run(f"{last}.open") is True and browser.run(seen) is True
    browser.run(f"{last}.querySelector('summary').focus()")
    browser.press("Enter", 13, "\r")
    assert browser.run(f"{last}.open") is False
    count = "[...document.querySelectorAll('.origin details')].filter(d => d.open).length"
    browser.run("document.getElementById('unfold').click()")
    assert browser.run(count) == browser.run("document.querySelectorAll('.origin details').length") > 5
    browser.run("document.getElementById('unfold').click()")
    assert browser.run(count) == 0


def test_models_and_tasks_are_filtered(browser: chromium.Browser, file: Path) -> None:
    browser.look(1280)
    browser.open(file)
    rows = "[...document.querySelectorAll('table.evaltk tbody th')]"
    seen = f"{rows}.filter(t => t.checkVisibility()).map(t => t.textContent)"
    every = browser.run(seen)
    browser.run("models.value = 'A_B'; models.dispatchEvent(new Event('input'))")
    assert {"a_b%"} <= set(browser.run(seen)) < set(every) and "dino_vits16" not in browser.run(seen)
    browser.run("models.value = ''; task.value = 'retrieval'; task.dispatchEvent(new Event('change'))")
    heads = "[...document.querySelectorAll('.group h3')].filter(t => t.checkVisibility()).map(t => t.textContent)"
    assert browser.run(heads) == ["Retrieval"]
    shown = "[...document.querySelector('table.evaltk').tHead.querySelectorAll('th')].filter(t => t.checkVisibility())"
    titles = browser.run(f"{shown}.map(t => t.dataset.title ?? t.textContent)")
    assert titles and all("k-NN" not in title for title in titles)
    browser.run("task.value = ''; task.dispatchEvent(new Event('change'))")
    assert browser.run(seen) == every


def test_a_table_is_copied(browser: chromium.Browser, file: Path, runs: Path) -> None:
    browser.open(file)
    browser.run("navigator.clipboard.writeText = () => Promise.reject()")  # as on a page that may not
    for form, start in (("CSV", "table,checkpoint,column"), ("Markdown", "### Results"), ("LaTeX", "% \\usepackage")):
        click = f"[...document.querySelectorAll('.copy button')].find(b => b.textContent === '{form}').click()"
        browser.run(f"(async () => {{ {click}; await new Promise(r => setTimeout(r, 50)); }})()")
        text = browser.run("document.querySelector('.copied').value")
        assert text.startswith(start) and len(text.splitlines()) > 5
    assert browser.run("document.activeElement.className") == "copied"


def test_provenance_is_searched(browser: chromium.Browser, file: Path) -> None:
    browser.open(file)
    browser.run("find = document.getElementById('find'); find.value = 'git'; find.dispatchEvent(new Event('input'))")
    rows = browser.run(
        "[...document.querySelectorAll('.facts tr')].filter(r => r.checkVisibility()).map(r => r.textContent)"
    )
    assert rows and all("git" in row.lower() for row in rows)


CONTRAST = """(() => {
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const ratio = c => { const l = light(c); return (Math.max(l, paper) + 0.05) / (Math.min(l, paper) + 0.05); };
  const found = [];
  const texts = 'small, .interval, .note, figcaption, summary, a, .below, header p, td, h2';
  for (const e of document.querySelectorAll(texts)) {
    if (e.checkVisibility()) found.push([e.tagName + '.' + e.className, ratio(getComputedStyle(e).color)]);
  }
  for (const e of document.querySelectorAll('svg.figure [class]')) {
    for (const part of ['stroke', 'fill']) {
      const c = getComputedStyle(e)[part];
      const named = e.getAttribute('class');
      if (named.includes('grid') || !/^rgb\\(/.test(c) || !/\\b[sf](\\d|grey)/.test(named)) continue;
      if (e.getAttribute('class').includes(part[0])) found.push(['svg ' + e.getAttribute('class'), ratio(c)]);
    }
  }
  return found.filter(([, r]) => r < 4.5);
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_contrast(browser: chromium.Browser, file: Path, dark: bool) -> None:
    """At least 4.5 against the paper, text and lines, in both themes."""
    browser.look(1280, dark=dark)
    browser.open(file)
    browser.run("localStorage.clear()")
    browser.open(file)
    assert browser.run("document.querySelectorAll('svg.figure .s0').length") > 0
    assert browser.run(CONTRAST) == []


def test_themes(browser: chromium.Browser, file: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    browser.look(1280, dark=False)
    browser.open(file)
    browser.run("localStorage.clear()")
    browser.open(file)
    light = browser.run(paper)
    browser.look(1280, dark=True)
    dark = browser.run(paper)
    assert light == "rgb(255, 255, 255)" and dark != light
    for chosen, wanted in (("light", light), ("dark", dark), ("auto", dark)):
        browser.run("document.getElementById('theme').click()")
        assert browser.run("document.getElementById('theme').textContent") == f"Theme: {chosen}"
        assert browser.run(paper) == wanted
    ink_of = "getComputedStyle(document.querySelector('svg.figure text')).fill"
    assert browser.run(ink_of) == browser.run("getComputedStyle(document.body).color")
    browser.look(1280, dark=True, media="print")
    assert browser.run(paper) == light
    browser.look(1280)


def test_focus_is_seen(browser: chromium.Browser, file: Path) -> None:
    browser.open(file)
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0
    for _ in range(3):
        browser.press("Tab", 9)
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_it_prints(browser: chromium.Browser, file: Path) -> None:
    browser.open(file)
    printed = browser.ask("Page.printToPDF", preferCSSPageSize=True)["data"]
    assert len(printed) > 20_000
