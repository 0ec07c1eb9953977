"""The five formats say the same; names with markup are shown, not run; LaTeX compiles where pdflatex is installed."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from result_files import BASE, knn, prototypes, retrieval, vos

from reports import layouts
from reports.formats import cell_text, html, latex, terminal
from reports.formats.render import FORMS, escaped, render, render_all
from reports.table import Cell, Table
from reports.tables.build import build_tables

AWKWARD = (
    "<script>alert(1)</script>",
    "a_b%",
    "$x^2$ \\ {} ~ # & \"q\" 's' `c` *b* |p|",
    "naïve 中文 ß ± é",
    "[x](y) --",
)
SMALL = Table(
    title="t <b> & co_",
    name="x",
    columns=("one", "two %"),
    rows=(
        (
            AWKWARD[0],
            (Cell(value=0.745, interval=(0.741, 0.749), published=74.44, verdict="reproduced", why="+0.06"), Cell()),
        ),
        (
            AWKWARD[1],
            (
                Cell(
                    value=0.07126, published=9.5, published_digits=1, verdict="off", why="-2.37", note="k=20", bold=True
                ),
                Cell(published=41.8, published_spread=0.3, published_digits=1, remark="odd <i>"),
            ),
        ),
        (
            AWKWARD[2],
            (Cell(value=-0.03, published=1.0, verdict="not comparable", why="n = 5 for 6"), Cell(note="auto")),
        ),
    ),
    footnotes=("all of it <u>", "all of it <u>"),
)


def test_markdown() -> None:
    lines = render(SMALL, "md").splitlines()
    assert lines[0] == "### t \\<b> & co\\_"
    rows = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:7]]
    assert rows[0] == ["checkpoint", "one", "two %"]
    assert rows[2] == [
        "\\<script>alert(1)\\</script>",
        "74.50 [74.10, 74.90]; published 74.44: reproduced (+0.06)",
        "-",
    ]
    assert rows[3] == ["a_b%", "**7.13** (k=20); published 9.5: off by -2.37", "(41.8 ± 0.3) [a]"]
    assert rows[4][1:] == ["-3.00; published 1.00: not comparable [b]", "auto"]
    assert lines[8:] == [
        "- [a] odd \\<i>",
        "- [b] not comparable: n = 5 for 6",
        "- all of it \\<u>",
        "- in parentheses: published, not measured here",
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a_b%", "a_b%"), ("_a_", "\\_a\\_"), ("a*b*", "a\\*b\\*"), ("<b>", "\\<b>"), ("k < 5", "k < 5"),
        ("[a](b)", "[a]\\(b)"), ("a\nb", "a b"), ("a|b", "a\\|b"), ("&lt;", "\\&lt;"), ("R&D", "R&D"),
        ("$x$", "\\$x\\$"), ("\\", "\\\\"),
        ("\x1b[31m", "\\\\x1b[31m"),
    ],
)  # fmt: skip
def test_markdown_shows_names_as_they_are(name: str, shown: str) -> None:
    assert escaped(name) == shown


def test_csv_holds_all_in_full() -> None:
    rows = list(csv.DictReader(io.StringIO(render(SMALL, "csv"))))
    assert [(r["checkpoint"], r["column"]) for r in rows] == [
        (AWKWARD[0], "one"), (AWKWARD[1], "one"), (AWKWARD[1], "two %"), (AWKWARD[2], "one"),
    ]  # fmt: skip
    assert rows[0] | {"table": ""} == {
        "table": "", "checkpoint": AWKWARD[0], "column": "one", "unit": "%", "value": "74.5", "low": "74.1",
        "high": "74.9", "bold": "", "published": "74.44", "published_std": "", "verdict": "reproduced", "why": "+0.06",
        "note": "", "remark": "",
    }  # fmt: skip
    assert (rows[1]["value"], rows[1]["bold"], rows[1]["published"]) == ("7.126", "bold", "9.5")
    assert (rows[2]["value"], rows[2]["published"], rows[2]["published_std"]) == ("", "41.8", "0.3")
    assert rows[3]["why"] == "n = 5 for 6"
    both = render_all([SMALL, SMALL], "csv").splitlines()
    assert len(both) == 1 + 2 * len(rows) and both.count(both[0]) == 1


class Reader(HTMLParser):
    """Elements and texts of a fragment; raises where one is not closed."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return reader


def test_html_is_a_table_with_heads_and_no_markup_of_names() -> None:
    found = read(render(SMALL, "html"))
    tags = [tag for tag, _ in found.elements]
    assert tags[:2] == ["table", "caption"] and not {"script", "b", "i", "u"} & set(tags)
    scopes = [a["scope"] for tag, a in found.elements if tag == "th"]
    assert scopes == ["col"] * 3 + ["row"] * 3
    assert (
        ("caption", SMALL.title) in found.texts
        and ("th", AWKWARD[0]) in found.texts
        and ("th", AWKWARD[2]) in found.texts
    )
    cells = [a for tag, a in found.elements if tag == "td"]
    assert [(a.get("class"), a.get("data-value")) for a in cells] == [
        ("reproduced", "74.5"), (None, None), ("off", "7.126"), ("published-only", "41.8"), ("not-comparable", "-3"),
        (None, None),
    ]  # fmt: skip
    assert cells[4]["title"] == "n = 5 for 6" and ("strong", "7.13") in found.texts
    assert ("span", "[74.10, 74.90]") in found.texts and ("span", "published 74.44") in found.texts
    assert found.texts.count(("li", "all of it <u>")) == 1


def test_a_page_of_html_needs_nothing_from_elsewhere() -> None:
    text = html.page(render(SMALL, "html"))
    read(text.removeprefix("<!doctype html>"))
    assert text.startswith("<!doctype html>\n<html lang=") and "src=" not in text and "href=" not in text


def test_terminal() -> None:
    text = terminal.render(SMALL, width=160)
    assert AWKWARD[0] in text and "74.50 [74.10, 74.90]; published 74.44: reproduced (+0.06)" in text
    assert "[a] odd <i>" in text and "\x1b" not in text
    odd = replace(SMALL, rows=(("\x1b[2J[bold]x", SMALL.rows[0][1]),))
    assert "\\x1b[2J[bold]x" in terminal.render(odd, width=160)
    narrow = terminal.render(SMALL, width=60)
    assert max(map(len, narrow.splitlines()[1:8])) <= 60


def test_latex_escapes_what_tex_reads() -> None:
    assert latex.escaped("a_b%") == r"a\_b\%"
    assert latex.escaped("<script>") == r"\textless{}script\textgreater{}"
    assert (
        latex.escaped("\\input{x}$y$^~#&") == r"\textbackslash{}input\{x\}\$y\$\textasciicircum{}\textasciitilde{}\#\&"
    )
    assert latex.escaped("é 中") == "é {[}U+4E2D{]}"
    assert latex.escaped("--") == "{-}{-}" and latex.escaped("a\nb") == "a b"


def test_latex_aligns_by_what_the_columns_hold() -> None:
    text = render(SMALL, "latex")
    assert r"\begin{tabular}{l S[table-format=2.2] S[table-format=-2.2] @{\,}l S[table-format=2.1] @{\,}l}" in text
    assert r"checkpoint & \multicolumn{3}{c}{one} & \multicolumn{2}{c}{two \%} \\" in text
    assert r" & {published} & {ours} &  & {published} &  \\" in text
    second = r"a\_b\% & 9.5 & \bfseries 7.13 & {\footnotesize (k=20) off by {-}2.37} & 41.8 & {\footnotesize $\pm$ 0.3}"
    assert second + r"\textsuperscript{a} \\" in text
    for line in text.splitlines():
        assert not re.search(r"(?<!\\)%", line.removeprefix("% "))
    plain = render(Table(title="t", columns=("a", "b"), rows=(("x", (Cell(published=1.25), Cell())),)), "latex")
    assert "{l S[table-format=1.2] c}" in plain and "published" not in plain


def every_table() -> Iterator[Table]:
    results = [
        knn(),
        knn("dino_vitb16", 0.77, arch=BASE),
        retrieval(),
        vos(),
        prototypes(),
        prototypes("mine", 5, 6, family="own"),
    ]
    for name in layouts.names():
        pair = ("dino_vits16", "dino_vitb16") if name == "compare" else ()
        for table in build_tables(layouts.load(name), results, pair=pair):
            rows = [
                (f"{AWKWARD[i]} {label}" if i < len(AWKWARD) else label, c) for i, (label, c) in enumerate(table.rows)
            ]
            yield replace(table, rows=tuple(rows))


def test_every_layout_in_every_format() -> None:
    for table in every_table():
        for form in FORMS:
            assert render(table, form).endswith("\n")
        markdown = render(table, "md").splitlines()
        widths = {len(line) for line in markdown if line.startswith("|")}
        assert len(widths) == 1
        read(render(table, "html"))


def test_letters_leave_out_x() -> None:
    cells = tuple(Cell(published=1.0, remark=f"remark {i}") for i in range(60))
    table = Table(title="t", columns=tuple(map(str, range(60))), rows=(("a", cells),))
    letters = list(cell_text.lettered(table).values())
    assert letters[:3] == ["a", "b", "c"] and "x" not in letters and letters[25] == "aa" and len(set(letters)) == 60


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path) -> None:
    """As a whole document, and taken up by one that loads booktabs and siunitx alone."""
    texts = [render(table, "latex") for table in every_table()]
    head = "\\documentclass{article}\n\\usepackage{booktabs,siunitx}\n\\begin{document}\n"
    documents = {"whole": latex.document(texts), "minimal": head + "\n\\clearpage\n".join(texts) + "\\end{document}\n"}
    for name, text in documents.items():
        (tmp_path / f"{name}.tex").write_text(text, encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert ended.returncode == 0, ended.stdout[-2000:].decode(errors="replace")
        assert (tmp_path / f"{name}.pdf").stat().st_size > 10_000


def nine_tasks() -> Table:
    """Four models and nine tasks, as the result view makes them."""
    tasks = ("aircraft", "cifar10", "cifar100", "dtd", "flowers102", "food101", "imagenet", "pets", "sun397")
    row = (*(Cell(value=0.8425, bold=n == 3, second=n == 4) for n in range(9)), Cell(value=2.3, unit="rank", digits=1))
    names = ("DINO ViT-S/16", "MSN ViT-L/16", "iBOT ViT-B/16", "random ViT-S/16")
    columns = (*(f"{task} k=20" for task in tasks), "mean rank")
    return Table(title="Results", columns=columns, groups=(*["k-NN"] * 9, ""), rows=tuple((n, row) for n in names))


def test_a_wide_latex_table_takes_both_columns() -> None:
    wide, few = nine_tasks(), replace(nine_tasks(), columns=("a", "b"), groups=("k-NN", "k-NN"), rows=())
    assert "\\begin{table*}" in render(wide, "latex") and "\\end{table*}" in render(wide, "latex")
    assert "\\begin{table}" in render(few, "latex") and "\\end{table}" in render(few, "latex")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("paper", ["\\documentclass[twocolumn]{article}", "\\documentclass{article}\\textwidth397pt"])
def test_nine_tasks_fit_a_paper(paper: str, tmp_path: Path) -> None:
    head = f"{paper}\\usepackage{{booktabs,siunitx}}\\begin{{document}}\n"
    (tmp_path / "paper.tex").write_text(head + render(nine_tasks(), "latex") + "\\end{document}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "Overfull" not in ended.stdout, ended.stdout[-2000:]
