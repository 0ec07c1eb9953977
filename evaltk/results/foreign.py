"""Figures that others measured, as results beside ours: from a CSV file, or the JSON of another tool."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaltk import safe_json
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError, SettingsError, nearest
from evaltk.types import Preprocessing, Result, ResultData, Score, digest

REQUIRED = ("checkpoint", "protocol", "dataset", "metric", "value")
OPTIONAL = ("n", "split", "low", "high", "arch", "epoch", "at")
MOST = 2**53  # a count that every reader of the results can hold
UNSTATED = "(split not stated)"
FRACTIONS = re.compile(r"(acc|accuracy|top|map|recall|f1|precision|em\b|exact_match)", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of somebody else's. value, low, high: as the file has them. n: items, 0 where it does not say."""

    checkpoint: str
    protocol: str
    dataset: str
    metric: str
    value: float
    n: int = 0
    split: str = ""
    low: float | None = None
    high: float | None = None
    arch: str = ""
    epoch: int | None = None
    at: Mapping[str, object] = dataclasses.field(default_factory=dict)


def source(result: Result) -> str:
    """Whose figures a result has; empty for our own."""
    told = result.made.get("source")
    return told if isinstance(told, str) else ""


def read(path: Path) -> list[Figure]:
    """The figures of a file: a CSV with the columns of `REQUIRED` and any of `OPTIONAL`, the JSON that CLIP_benchmark
    writes for one dataset (or a list of it), or lm-evaluation-harness's.

    Raises: DataError: another file, a column that lacks or is unknown, a value that is no number or outside of its
        interval, two figures for the same.
    """
    try:
        text = safe_json.text(path)
    except UnicodeDecodeError as error:
        raise DataError(wanted="a text in UTF-8", got=str(error)[:120], where=path, do="save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise DataError(wanted="a file of results", got=str(error)[:120], where=path, do="check the path") from error
    if path.suffix.lower() == ".csv":
        figures = _csv(path, text)
    else:
        figures = _json(path, text)
    if not figures:
        raise DataError(wanted="at least one figure", got="none", where=path, do="name another file")
    _check(figures, path)
    return figures


def _check(figures: list[Figure], path: Path) -> None:
    """Raises: DataError: a number that cannot be one of that kind, or two figures for the same."""
    seen: dict[str, Figure] = {}
    for figure in figures:
        whose = f"{path}, {figure.metric} of {figure.checkpoint} on {figure.dataset}"
        numbers = [figure.value, *(bound for bound in (figure.low, figure.high) if bound is not None)]
        if not all(math.isfinite(number) for number in numbers):
            raise DataError(wanted="numbers", got=", ".join(f"{n:g}" for n in numbers), where=whose, do="correct it")
        if (figure.low is None) != (figure.high is None):
            raise DataError(wanted="low and high, or neither", got="one", where=whose, do="fill in both or none")
        if figure.low is not None and figure.high is not None and not figure.low <= figure.value <= figure.high:
            got = f"{figure.value:g} with an interval from {figure.low:g} to {figure.high:g}"
            raise DataError(wanted="a value inside its interval", got=got, where=whose, do="correct low and high")
        for name, count in (("n", figure.n), ("epoch", figure.epoch or 0)):
            if not 0 <= count <= MOST:
                raise DataError(wanted=f"{name} from 0 to 2**53", got=str(count)[:60], where=whose, do="correct it")
        key = digest(dataclasses.asdict(figure) | dict.fromkeys(("value", "n", "low", "high", "arch")))
        if key in seen:
            got, do = f"{seen[key].value:g} and {figure.value:g}", "keep one of them, or tell them apart by split or at"
            raise DataError(wanted="one figure for each", got=got, where=whose, do=do)
        seen[key] = figure


def results(figures: list[Figure], source: str, *, percent: bool) -> Iterator[Result]:
    """The figures as results, one for each checkpoint, epoch, protocol and dataset, marked as those of `source`.

    Args:
        percent: the values are percentages; else fractions.

    Raises: SettingsError: a value above 1 that is said to be a fraction, or percentages none of which is above 1.
    """
    if not source.strip():
        do = "--source 'Name (year), table 2, https://...'"
        raise SettingsError(wanted="whose figures they are", got="nothing", where="--source", do=do)
    largest = max((f.value for f in figures if FRACTIONS.search(f.metric)), default=0.0)
    if percent and 0 < largest <= 1:
        do = "leave --percent out, if they are fractions; else divide them by 100 in the file, and leave it out"
        raise SettingsError(wanted="percentages", got=f"no value above {largest:g}", where="--percent", do=do)
    groups: dict[tuple[str, str, str, int | None], list[Figure]] = {}
    for figure in figures:
        groups.setdefault((figure.checkpoint, figure.protocol, figure.dataset, figure.epoch), []).append(figure)
    for (checkpoint, protocol, dataset, epoch), mine in groups.items():
        scores = tuple(_score(figure, percent=percent) for figure in mine)
        asked = {"source": source, "figures": [dataclasses.asdict(figure) for figure in mine]}
        yield Result(
            checkpoint={"name": f"{checkpoint} [{source}]", "family": "theirs", "epoch": epoch,
                        "arch": {"name": mine[0].arch or None}},
            protocol=protocol,
            version=0,
            settings={},
            data=ResultData(name=dataset, fingerprint=f"theirs: {source}"),
            preprocessing=Preprocessing(precision=None, position=None),
            scores=scores,
            seed=0,
            request=digest(asked),
            made={"source": source},
            deviations=(Deviation(kind=DeviationKind.THEIRS, text=f"a figure of {source}, not measured here"),),
        )  # fmt: skip


def _score(figure: Figure, *, percent: bool) -> Score:
    fraction = bool(FRACTIONS.search(figure.metric))
    scale = 100.0 if percent and fraction else 1.0
    value = figure.value / scale
    if fraction and not 0 <= value <= 1:
        got, do = f"{figure.value:g} for {figure.metric} of {figure.checkpoint}", "--percent, if it is a percentage"
        raise SettingsError(wanted="fractions", got=got, where="the file", do=do)
    interval = None
    if figure.low is not None and figure.high is not None:
        interval = (figure.low / scale, figure.high / scale)
        if fraction and interval[1] - interval[0] > 2:
            got = f"{interval[0]:g} to {interval[1]:g} for {figure.metric} of {figure.checkpoint}"
            raise SettingsError(wanted="an interval of fractions", got=got, where="the file", do="correct its width")
    return Score(
        dataset=figure.dataset,
        split=figure.split or UNSTATED,
        metric=figure.metric,
        value=value,
        n=figure.n,
        at=dict(figure.at),
        interval=interval,
    )


def _csv(path: Path, text: str) -> list[Figure]:
    try:
        rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    except csv.Error as error:
        raise DataError(wanted="a CSV", got=str(error), where=path, do="save it as CSV in UTF-8") from error
    columns = [name.strip() for name in rows[0]] if rows else []
    if missing := [name for name in REQUIRED if name not in columns]:
        do = f"columns {', '.join(REQUIRED)}; and where known {', '.join(OPTIONAL)}"
        raise DataError(wanted=f"the columns {', '.join(missing)}", got=", ".join(columns)[:100], where=path, do=do)
    for name in columns:
        if name not in (*REQUIRED, *OPTIONAL):
            do = nearest(name, (*REQUIRED, *OPTIONAL))
            raise DataError(wanted="a known column", got=repr(name), where=path, do=do)
        if columns.count(name) > 1:
            raise DataError(wanted="each column once", got=f"{name} twice", where=path, do="remove one of them")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, row {number}"
        if not row:  # an empty line
            continue
        if len(row) > len(columns):  # such as a comma for a decimal point
            got, do = f"{len(row)} ({', '.join(row[len(columns) - 1 :])})", "quote a text with a comma; 0.5, not 0,5"
            raise DataError(wanted=f"{len(columns)} cells, as in the header", got=got, where=where, do=do)
        found.append(_figure(dict(zip(columns, (cell.strip() for cell in row), strict=False)), where))
    return found


def _figure(told: Mapping[str, Any], where: str) -> Figure:
    """A figure from texts by column. Raises: DataError."""
    made: dict[str, Any] = {}
    for field in dataclasses.fields(Figure):
        text = told.get(field.name, "")
        if text in ("", None):
            if field.name in REQUIRED:
                raise DataError(wanted=f"a {field.name}", got="nothing", where=where, do="fill it in")
            continue
        try:
            if field.name in ("value", "low", "high"):
                made[field.name] = float(text)
                if not math.isfinite(made[field.name]):
                    raise ValueError(text)
            elif field.name in ("n", "epoch"):
                made[field.name] = int(text)
            elif field.name == "at":
                made[field.name] = _object(text)
            else:
                made[field.name] = str(text)
                if not str(text).isprintable():
                    raise DataError(
                        wanted=f"a {field.name} without control characters",
                        got=repr(text)[:60],
                        where=where,
                        do="name it",
                    )
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(
                wanted=f"a number for {field.name}" if field.name != "at" else "a JSON object for at",
                got=repr(text)[:60],
                where=where,
                do="correct it",
            ) from error
    return Figure(**made)


def _object(text: object) -> dict[str, object]:
    """A JSON object of finite values from a text. Raises: ValueError."""
    found = safe_json.parse(str(text))
    if not isinstance(found, dict):
        raise ValueError("no object")
    json.dumps(found, allow_nan=False)
    return found


def _json(path: Path, text: str) -> list[Figure]:
    try:
        told = safe_json.parse(text)
    except ValueError as error:
        do = "name a .csv, or the JSON of CLIP_benchmark or lm-evaluation-harness"
        raise DataError(wanted="JSON", got=str(error)[:100], where=path, do=do) from error
    parts = told if isinstance(told, list) else [told]
    if all(isinstance(part, dict) and {"dataset", "model", "metrics"} <= part.keys() for part in parts):
        return [figure for part in parts for figure in _clip_benchmark(part, str(path))]
    if isinstance(told, dict) and isinstance(told.get("results"), dict):
        return _lm_eval(told, str(path))
    got = ", ".join(map(str, told))[:80] if isinstance(told, dict) else type(told).__name__
    do = "CLIP_benchmark's has dataset, model and metrics; lm-evaluation-harness's has results"
    raise DataError(wanted="the JSON of a known tool", got=got, where=path, do=do)


def _clip_benchmark(part: Mapping[str, Any], where: str) -> Iterator[Figure]:
    """{"dataset": "wds/cifar10", "model": "ViT-B-32", "pretrained": "...", "task": "zeroshot_classification",
    "metrics": {"acc1": ...}}: the numbers among the metrics."""
    metrics = part["metrics"] if isinstance(part["metrics"], dict) else {}
    name = " ".join(str(part[key]) for key in ("model", "pretrained") if part.get(key))
    for metric, value in metrics.items():
        if _is_number(value):
            told = {
                "checkpoint": name, "protocol": part.get("task") or "clip_benchmark", "dataset": part["dataset"],
                "metric": metric, "value": value, "arch": part["model"],
            }  # fmt: skip
            yield _figure(told, where)


def _lm_eval(told: Mapping[str, Any], where: str) -> list[Figure]:
    """{"results": {task: {"acc,none": ..., "acc_stderr,none": ...}}, "config": {"model_args": ...}, "n-samples": ...}:
    metrics with intervals of 1.96 standard errors where there are some."""
    config = told.get("config") if isinstance(told.get("config"), dict) else {}
    name = told.get("model_name") or (config or {}).get("model_args") or (config or {}).get("model") or "unnamed"
    counts = told.get("n-samples") if isinstance(told.get("n-samples"), dict) else {}
    found = []
    for task, metrics in told["results"].items():
        samples = (counts or {}).get(task)
        n = samples.get("effective") if isinstance(samples, dict) else None
        for key, value in metrics.items() if isinstance(metrics, dict) else ():
            metric, comma, kind = key.partition(",")
            if not _is_number(value) or metric.endswith("_stderr"):
                continue
            figure = _figure(
                {"checkpoint": name, "protocol": "lm_eval", "dataset": task, "metric": metric, "value": value}, where
            )
            error = metrics.get(f"{metric}_stderr{comma}{kind}")
            spread = 1.96 * error if _is_number(error) and math.isfinite(error) else None
            found.append(
                dataclasses.replace(
                    figure,
                    n=n if isinstance(n, int) and not isinstance(n, bool) else 0,
                    low=None if spread is None else figure.value - spread,
                    high=None if spread is None else figure.value + spread,
                    at={"filter": kind} if kind not in ("", "none") else {},
                )
            )
    return found


def _is_number(value: object) -> bool:
    """A number that a float can hold, or NaN or infinity, which JSON of Python's may have."""
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1023
    )
