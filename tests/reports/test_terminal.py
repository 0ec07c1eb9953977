"""Tables in a terminal: no line is too long and no number is broken, however many models, however long their names."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace

import pytest

from reports.formats import terminal
from reports.table import Cell, Table

TASKS = ("k-NN", "k-NN", "linear", "few-shot", "few-shot", "transfer", "transfer", "video", "retrieval")
TITLES = ("chosen k", "k=20", "", "1/class", "5/class", "cifar10", "caltech101_ericsson", "J&F", "M mAP")


def view(models: int, *, prefix: str = "random:vit_patch8_dim64_depth3_heads2_img16@") -> Table:
    """The result view of so many models, each number of it once."""
    rows = []
    for m in range(models):
        cells = tuple(
            Cell(value=(m * 9 + c + 1000) / 10_000, interval=(0.1, 0.1 + (m + c) / 5000), bold=m == 0)
            for c in range(len(TASKS))
        )
        rows.append((f"{prefix}{m}", (*cells, Cell(value=1.5, unit="rank", digits=1))))
    return Table(title="Results", name="summary", stub="model", rows=tuple(rows), columns=(*TITLES, "mean rank"),
                 groups=(*TASKS, ""), minor=(9, 1), half=True,
                 legend=("±: half the width of the 95 % interval", "bold: best"))  # fmt: skip


def numbers(table: Table, minor: bool) -> set[str]:
    """What must be there whole: every value, of the columns that may not be left out."""
    kept = [c for c in range(9) if minor or c not in table.minor]
    return {f"{100 * row[c].value:.2f}" for _, row in table.rows for c in kept if row[c].value is not None}


@pytest.mark.parametrize("width", [40, 80, 100, 120])
@pytest.mark.parametrize("models", [1, 4, 12, 40])
def test_it_fits_and_no_number_is_broken(models: int, width: int) -> None:
    table = view(models)
    text = terminal.render(table, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert numbers(table, minor=False) <= set(re.findall(r"\d+\.\d\d", text))
    wide = terminal.render(table, width=240)
    assert numbers(table, minor=True) <= set(re.findall(r"\d+\.\d\d", wide)) and "±" in wide


def test_what_is_left_out_goes_in_order() -> None:
    """Half-widths first, then minor columns, then rows and columns change places."""
    table = view(4, prefix="net")
    assert "± " in terminal.render(table, width=170) and "mean" in terminal.render(table, width=170)
    without = terminal.render(table, width=110)
    assert "±" not in without and "k=20" in without and "mean" in without
    smaller = terminal.render(table, width=100)
    assert "mean" not in smaller and "k=20" in smaller and "net3" in smaller.splitlines()[-2]
    turned = terminal.render(table, width=60).splitlines()
    assert turned[1].split() == ["net0", "net1", "net2", "net3"] and turned[3].startswith("k-NN chosen k")
    parts = terminal.render(view(40, prefix="net"), width=60)
    assert parts.count("net39") > 1


def test_long_names_keep_both_ends_and_stay_apart() -> None:
    table = view(2, prefix="checkpoints/" + "x" * 180 + "/epoch")
    text = terminal.render(table, width=80)
    lines = text.splitlines()
    assert any("check" in line and "…" in line and "epoch0" in line for line in lines)
    alike = replace(table, rows=tuple((f"a{'b' * 50}{m}{'c' * 50}", row) for m, (_, row) in enumerate(table.rows)))
    text = terminal.render(alike, width=80)
    keys = re.findall(r"(?m)^(\S+#\d): ", text)
    assert len(keys) == 2 and all(text.count(key) == 2 for key in keys)
    assert alike.rows[0][0] in "".join(text.split())  # whole in the key, over several lines


def test_letters_of_two_columns_are_counted_as_two() -> None:
    table = Table(title="t", columns=("a",), rows=(("模型", (Cell(value=0.5),)), ("net", (Cell(value=0.25),))))
    rows = terminal.render(table, width=40).splitlines()[3:5]
    assert [row.index(f"{n}.00") for row, n in zip(rows, (50, 25), strict=True)] == [12 - 2, 12]


def test_without_colour_or_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = terminal.render(view(2, prefix="né"), width=200)
    assert text.isascii() and "+- " in text and r"n\xe90" in text and "10.00*" in text and "*: best" in text


def test_colour_only_on_a_terminal_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1m10.00\x1b[0m" in terminal.render(view(2), width=200)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in terminal.render(view(2), width=200)


def test_words_that_fit_nowhere_are_listed() -> None:
    long = "settings of " + "word " * 30
    table = Table(title="t", columns=("number", "words"), rows=(("net", (Cell(value=0.5), Cell(note=long))),))
    lines = terminal.render(table, width=40).splitlines()
    assert max(map(len, lines)) <= 40 and "  number: 50.00" in lines
