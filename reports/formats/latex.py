"""Tables as LaTeX: booktabs rules, numbers aligned by siunitx; every name is escaped.

A document that takes them up needs ``\\usepackage{booktabs,siunitx}`` alone; `document` is a whole one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from evaltk.errors import printable
from reports.formats import cell_text
from reports.formats.cell_text import Pieces
from reports.table import Cell, Table

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "-": "{-}", "[": "{[}", "]": "{]}", "*": "{*}",
    "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "κ": r"$\kappa$", "ρ": r"$\rho$", "τ": r"$\tau$", "≤": r"$\leq$",
}  # fmt: skip
QUOTES = {'"': "''", "'": "'", "`": "`"}  # what T1 would give a sign of its own, in the default encoding
ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327\u0328"
COLUMN, PAGE = 5, 8  # columns of numbers that fit a column of a paper of two, and a page, in footnote size
PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[a3paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs,siunitx}
\begin{document}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a column of the table becomes: published numbers, ours, and words, each where there are any."""

    published: bool
    ours: bool
    words: bool
    formats: tuple[str, str]

    @property
    def width(self) -> int:
        """Columns of the tabular."""
        return max(1, self.published + self.ours + self.words)


def render(table: Table) -> str:
    """A ``table`` environment with a caption; footnotes and legend in small print below."""
    return environment(table, legend([table]))


def legend(tables: Iterable[Table]) -> str:
    """What columns and marks of all these tables mean, a paragraph each."""
    # Published numbers have columns of their own here: none stands in parentheses.
    return "".join(_paragraph("", text) + "\n" for text in cell_text.legend(tables) if text != cell_text.PARENTHESES)


def environment(table: Table, end: str = "") -> str:
    """The ``table`` environment; `end`: LaTeX that stands below the footnotes."""
    letters = cell_text.lettered(table)
    columns = list(zip(*(cells for _, cells in table.rows), strict=True)) if table.rows else [()] * len(table.columns)
    found = [[cell_text.pieces(cell, table, letters) for cell in column] for column in columns]
    shapes = [_shape(cells, parts) for cells, parts in zip(columns, found, strict=True)]
    width = sum(shape.width for shape in shapes)
    name = "table*" if any(table.groups) and width > COLUMN else "table"  # over both columns of a paper that has two
    lines = [
        "% \\usepackage{booktabs,siunitx}",
        f"\\begin{{{name}}}",
        "\\centering",
        "\\sisetup{detect-weight=true, mode=text}",
        *([_small(width)] if any(table.groups) else []),
        f"\\caption{{{escaped(table.title)}}}",
        f"\\label{{{reference(table)}}}",
        f"\\begin{{tabular}}{{l{''.join(map(_columns, shapes))}}}",
        "\\toprule",
        *_head(table, shapes),
        "\\midrule",
    ]
    for r, (label, cells) in enumerate(table.rows):
        parts = [_cell(cell, found[c][r], shapes[c]) for c, cell in enumerate(cells)]
        lines.append(" & ".join([escaped(label), *parts]) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}", *_notes(table, letters), *end.splitlines(), f"\\end{{{name}}}"]
    return "\n".join(lines) + "\n"


def _small(width: int) -> str:
    """Letters and gaps with which so many columns of numbers fit a paper."""
    return (
        "\\scriptsize\\setlength{\\tabcolsep}{2pt}" if width > PAGE else "\\footnotesize\\setlength{\\tabcolsep}{3pt}"
    )


def reference(table: Table) -> str:
    """What ``\\ref`` finds the table by: ``tab:`` and its title in letters, digits and hyphens."""
    return f"tab:{'-'.join(re.findall(r'[a-z0-9]+', table.title.lower()))[:60].strip('-')}"


def document(texts: Sequence[str]) -> str:
    """A whole document of tables, each on its own page where it must, that pdflatex takes as it is."""
    return PREAMBLE + "\n\\clearpage\n".join(texts) + "\\end{document}\n"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is, in any font encoding; letters that pdflatex lacks are told by their number."""
    return "".join(map(_character, printable(text)))


def _character(c: str) -> str:
    if c in QUOTES:
        return QUOTES[c]
    if c in SPECIAL:
        return SPECIAL[c]
    base, *accents = list(unicodedata.normalize("NFD", c))
    if c.isascii() or (base.isascii() and base.isalpha() and len(accents) == 1 and accents[0] in ACCENTS):
        return c
    return f"{{[}}U+{ord(c):04X}{{]}}"


def _shape(cells: Sequence[Cell], parts: Sequence[Pieces]) -> Shape:
    return Shape(
        published=any(p.published for p in parts),
        ours=any(p.value for p in parts),
        words=any(_words(cell, p) for cell, p in zip(cells, parts, strict=True)),
        formats=(_format(p.published.partition(" ")[0] for p in parts), _format(p.value for p in parts)),
    )


def _format(numbers: Iterator[str]) -> str:
    """siunitx's table-format for numbers as text."""
    texts = [number.lstrip("<") for number in numbers if number]
    whole = max((len(text.lstrip("-").partition(".")[0]) for text in texts), default=1)
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    sign = "-" if any(text.startswith("-") for text in texts) else ""
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def _columns(shape: Shape) -> str:
    published, ours = shape.formats
    made = [f"S[table-format={published}]"] if shape.published else []
    made += [f"S[table-format={ours}]"] if shape.ours else []
    made += ["@{\\,}l"] if shape.words else []
    return " " + " ".join(made or ["c"])


def _head(table: Table, shapes: Sequence[Shape]) -> list[str]:
    """Titles over their columns, and below them whose numbers these are where a table holds both kinds."""
    if any(table.groups):
        return _grouped_head(table, shapes)
    first, second = [escaped(table.stub)], [""]
    both = any(s.ours for s in shapes) and any(s.published for s in shapes)
    for title, shape in zip(table.columns, shapes, strict=True):
        text = escaped(title)
        first.append(f"{{{text}}}" if shape.width == 1 else f"\\multicolumn{{{shape.width}}}{{c}}{{{text}}}")
        names = [name for name, there in (("published", shape.published), ("ours", shape.ours)) if there]
        second += [f"{{{name}}}" for name in names] + [""] * (shape.width - len(names))
    lines = [" & ".join(first) + r" \\"]
    return [*lines, " & ".join(second) + r" \\"] if both else lines


def _grouped_head(table: Table, shapes: Sequence[Shape]) -> list[str]:
    """Groups over their columns with a rule below each, then the titles; a column without a group has one title."""
    first, rules, second, at = [escaped(table.stub)], [], [""], 2
    columns = zip(table.groups, table.columns, shapes, strict=True)
    for group, members in groupby(columns, key=lambda one: one[0]):
        here = list(members)
        width = sum(shape.width for _, _, shape in here)
        for _, title, shape in here:
            words = [escaped(word) for word in title.split()]
            text = f"\\shortstack{{{' '.join(words[:-1])}\\\\{words[-1]}}}" if len(words) > 1 else "".join(words)
            second.append(f"\\multicolumn{{{shape.width}}}{{c}}{{{text}}}" if title else "")
            if not group:
                first += [""] * shape.width
        if group:
            first.append(f"\\multicolumn{{{width}}}{{c}}{{{escaped(group)}}}")
            if len(here) > 1 or here[0][1]:
                rules.append(f"\\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    return [" & ".join(first) + r" \\", *([" ".join(rules)] if rules else []), " & ".join(second) + r" \\"]


def _cell(cell: Cell, found: Pieces, shape: Shape) -> str:
    parts = []
    if shape.published:
        parts.append(found.published.partition(" ")[0])
    if shape.ours:
        value = found.value.replace("<", "< ")
        marked = f"\\bfseries {value}" if cell.bold else f"{{\\underline{{{value}}}}}" if cell.second else value
        parts.append(marked if value else value)
    if shape.words:
        parts.append(_words(cell, found))
    return " & ".join(parts) if parts else ""


def _words(cell: Cell, found: Pieces) -> str:
    """All of a cell but its numbers: spread, interval, note, verdict, letters of footnotes."""
    spread = found.published.partition(" ")[2]
    note = f"({found.note})" if found.note and found.value else found.note
    said = " ".join(part for part in (spread, found.interval, note, found.verdict) if part)
    marks = f"\\textsuperscript{{{found.marks}}}" if found.marks else ""
    return (f"{{\\footnotesize {escaped(said)}}}" if said else "") + marks


def _notes(table: Table, letters: Mapping[str, str]) -> list[str]:
    return [_paragraph(letter, text) for letter, text in cell_text.footnotes(table, letters)]


def _paragraph(letter: str, text: str) -> str:
    mark = f"\\textsuperscript{{{letter}}}\\," if letter else ""
    return f"\\par\\smallskip{{\\raggedright\\footnotesize {mark}{escaped(text)}\\par}}"
