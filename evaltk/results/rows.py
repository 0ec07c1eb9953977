"""Results as rows of plain values, one a score; filters over them; and files of rows for other programs."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from evaltk import files
from evaltk.errors import SettingsError, nearest, printable
from evaltk.results import foreign
from evaltk.types import Result

Value = str | int | float | None
Row = Mapping[str, Value]
FORMATS = (".csv", ".jsonl", ".parquet")
# Columns, in order. `at` is JSON: the settings of one number, such as {"k": 20}. `source`: whose figure it is.
KINDS: dict[str, type] = {
    "checkpoint": str, "arch": str, "family": str, "epoch": int, "protocol": str, "version": int, "dataset": str,
    "split": str, "metric": str, "at": str, "value": float, "low": float, "high": float, "n": int, "precision": str,
    "seed": int, "settings": str, "date": str, "device": str, "source": str, "digest": str, "request": str, "path": str,
}  # fmt: skip


def of(path: Path, result: Result) -> Iterator[Row]:
    """The scores of a result, each with all that tells it from others."""
    checkpoint, made = result.checkpoint, result.made
    arch = checkpoint.get("arch")
    common: dict[str, Value] = {
        "checkpoint": _text(checkpoint.get("name")),
        "arch": _text(arch.get("name")) if isinstance(arch, dict) else None,
        "family": _text(checkpoint.get("family")),
        "epoch": epoch if isinstance(epoch := checkpoint.get("epoch"), int) else None,
        "protocol": result.protocol,
        "version": result.version,
        "precision": result.preprocessing.precision,
        "seed": result.seed,
        "settings": json.dumps(result.settings, sort_keys=True, default=str),
        "date": _text(made.get("date")),
        "device": _text(made.get("device")),
        "source": foreign.source(result) or "evaltk",
        "digest": _text(checkpoint.get("digest")),
        "request": result.request,
        "path": str(path),
    }
    for score in result.scores:
        low, high = score.interval or (None, None)
        mine: dict[str, Value] = {
            "dataset": score.dataset,
            "split": score.split,
            "metric": score.metric,
            "at": json.dumps(dict(score.at), sort_keys=True, default=str),
            "value": score.value,
            "low": low,
            "high": high,
            "n": score.n,
        }
        yield {name: printable(v) if isinstance(v := (common | mine)[name], str) else v for name in KINDS}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A filter of rows, see `where`."""

    text: str
    test: Callable[[Row], bool]

    def __call__(self, row: Row) -> bool:
        return self.test(row)


TOKEN = re.compile(
    r"""\s*(?:(?P<op><=|>=|!=|!~|=|~|<|>)|(?P<paren>[()])|"(?P<double>[^"]*)"|'(?P<single>[^']*)'"""
    r"""|(?P<word>[^\s()=~<>!"']+))"""
)
WORDS = ("and", "or", "not")


def where(text: str) -> Where:
    """A filter from a text: ``protocol=knn and arch~vit_small and not (value < 0.5 or epoch >= 100)``.

    ``=`` and ``!=`` compare whole values, ``~`` and ``!~`` look for a regular expression in a text, ``<`` and the like
    compare numbers. What a row does not have matches nothing but ``!=`` and ``!~``. ``and`` binds before ``or``.

    Raises: SettingsError: no such column, or a text that does not parse.
    """
    try:
        return _Parser(text).whole()
    except RecursionError as error:
        do = "write fewer parentheses and nots"
        raise SettingsError(wanted="a condition on results", got="nested too deep", where="--where", do=do) from error


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.tokens, at = text, list[tuple[str, str]](), 0
        while at < len(text.rstrip()):
            found = TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise self._wrong(f"{text[at : at + 20]!r}")
            kind = "text" if found.lastgroup in ("double", "single") else found.lastgroup
            self.tokens.append((kind, found[found.lastgroup]))
            at = found.end()
        self.at = 0

    def whole(self) -> Where:
        test = self._any()
        if self.at < len(self.tokens):
            raise self._wrong(repr(self.tokens[self.at][1]))
        return Where(text=self.text, test=test)

    def _any(self) -> Callable[[Row], bool]:
        tests = [self._all()]
        while self._took("or"):
            tests.append(self._all())
        return lambda row: any(test(row) for test in tests)

    def _all(self) -> Callable[[Row], bool]:
        tests = [self._one()]
        while self._took("and"):
            tests.append(self._one())
        return lambda row: all(test(row) for test in tests)

    def _one(self) -> Callable[[Row], bool]:
        if self._took("not"):
            inner = self._one()
            return lambda row: not inner(row)
        if self._took("("):
            inside = self._any()
            if not self._took(")"):
                raise self._wrong("no closing parenthesis")
            return inside
        column, op, value = self._next("word"), self._next("op"), self._next("word", "text")
        if column not in KINDS:
            raise SettingsError(
                wanted="a column of results", got=repr(column), where="--where", do=nearest(column, KINDS)
            )
        return self._comparison(column, op, value)

    def _comparison(self, column: str, op: str, value: str) -> Callable[[Row], bool]:
        if op in ("~", "!~"):
            try:
                pattern = re.compile(value)
            except re.error as error:
                raise self._wrong(f"{value!r}: {error}") from error
            return lambda row: (row[column] is not None and bool(pattern.search(str(row[column])))) == (op == "~")
        wanted: Value = value
        if KINDS[column] is not str:
            try:
                wanted = float(value)
                if wanted != wanted:
                    raise ValueError
            except ValueError:
                raise self._wrong(f"{value!r} for {column}, a number") from None
        if op in ("=", "!="):
            return lambda row: (row[column] == wanted) == (op == "=")
        if KINDS[column] is str and column != "date":
            raise self._wrong(f"{op} for {column}, which is no number")
        tests: dict[str, Callable[[Any, Any], bool]] = {
            "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
        }  # fmt: skip
        return lambda row: row[column] is not None and tests[op](row[column], wanted)

    def _took(self, word: str) -> bool:
        kinds = ("paren",) if word in "()" else ("word",)
        if self.at < len(self.tokens) and self.tokens[self.at][0] in kinds and self.tokens[self.at][1] == word:
            self.at += 1
            return True
        return False

    def _next(self, *kinds: str) -> str:
        if self.at >= len(self.tokens):
            raise self._wrong("an end in the middle")
        kind, value = self.tokens[self.at]
        if kind not in kinds or (kind == "word" and value in WORDS):
            raise self._wrong(repr(value))
        self.at += 1
        return value

    def _wrong(self, got: str) -> SettingsError:
        do = "'protocol=knn and arch~vit_small and value>0.7'"
        return SettingsError(wanted="a condition on results", got=got, where=f"--where {self.text[:60]!r}", do=do)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, whole or not at all; the ending of the name decides the format: .csv, .jsonl or .parquet.

    Raises: SettingsError: another ending, or no pyarrow. StorageError.
    """
    check_path(path)
    files.write(path, {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix](rows))


def check_path(path: Path) -> None:
    """Check before any work that rows can be written. Raises: SettingsError."""
    if path.suffix not in FORMATS:
        wanted, do = f"a name ending in {', '.join(FORMATS)}", f"{path.stem or 'results'}.csv"
        raise SettingsError(wanted=wanted, got=path.name, where="--out", do=do)
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        do = "pip install 'evaltk[parquet]', or write .csv"
        raise SettingsError(wanted="pyarrow, to write parquet", got="an environment without", where=path, do=do)


def _csv(rows: Sequence[Row]) -> Callable[[BinaryIO], object]:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(KINDS), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: repr(v) if isinstance(v, float) else cell(v) for k, v in row.items()} for row in rows)
    return lambda stream: stream.write(text.getvalue().encode())


def cell(value: Value) -> Value:
    """A value for CSV: a text that a spreadsheet would take for a formula begins with an apostrophe, as it shows texts.

    >>> cell("=1+1"), cell("dino"), cell(-0.5)
    ("'=1+1", 'dino', -0.5)
    """
    text = printable(value) if isinstance(value, str) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text


def _jsonl(rows: Sequence[Row]) -> Callable[[BinaryIO], object]:
    parsed = [dict(row) | {k: json.loads(str(row[k])) for k in ("at", "settings")} for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in parsed)
    return lambda stream: stream.write(text.encode())


def _parquet(rows: Sequence[Row]) -> Callable[[BinaryIO], object]:
    import pyarrow as pa
    from pyarrow import parquet

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    table = pa.table({name: pa.array([row[name] for row in rows], types[kind]) for name, kind in KINDS.items()})
    return lambda stream: parquet.write_table(table, stream)
