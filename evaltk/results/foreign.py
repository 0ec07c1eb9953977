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

    Raises: DataError: another file, a column that lacks or is unknown, a value that is no number.
    """
    try:
        text = safe_json.text(path)
    except (OSError, ValueError) as error:
        raise DataError(wanted="a file of results", got=str(error)[:120], where=path, do="check the path") from error
    if path.suffix.lower() == ".csv":
        figures = _csv(path, text)
    else:
        figures = _json(path, text)
    if not figures:
        raise DataError(wanted="at least one figure", got="none", where=path, do="name another file")
    return figures


def results(figures: list[Figure], source: str, *, percent: bool) -> Iterator[Result]:
    """The figures as results, one for each checkpoint, protocol and dataset, marked as those of `source`.

    Args:
        percent: the values are percentages; else fractions.

    Raises: SettingsError: a value above 1 that is said to be a fraction.
    """
    if not source.strip():
        do = "--source 'Name (year), table 2, https://...'"
        raise SettingsError(wanted="whose figures they are", got="nothing", where="--source", do=do)
    groups: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in figures:
        groups.setdefault((figure.checkpoint, figure.protocol, figure.dataset), []).append(figure)
    for (checkpoint, protocol, dataset), mine in groups.items():
        scores = tuple(_score(figure, percent=percent) for figure in mine)
        asked = {"source": source, "figures": [dataclasses.asdict(figure) for figure in mine]}
        yield Result(
            checkpoint={"name": f"{checkpoint} [{source}]", "family": "theirs", "epoch": mine[0].epoch,
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
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    columns = [name.strip() for name in reader.fieldnames or ()]
    if missing := [name for name in REQUIRED if name not in columns]:
        do = f"columns {', '.join(REQUIRED)}; and where known {', '.join(OPTIONAL)}"
        raise DataError(wanted=f"the columns {', '.join(missing)}", got=", ".join(columns)[:100], where=path, do=do)
    for name in columns:
        if name not in (*REQUIRED, *OPTIONAL):
            do = nearest(name, (*REQUIRED, *OPTIONAL))
            raise DataError(wanted="a known column", got=repr(name), where=path, do=do)
    found = []
    for number, row in enumerate(reader, start=2):
        told = {
            (key or "").strip(): (value or "").strip() for key, value in row.items() if isinstance(value, str | None)
        }
        found.append(_figure(told, f"{path}, line {number}"))
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
                made[field.name] = dict(json.loads(text))
            else:
                made[field.name] = str(text)
        except (ValueError, TypeError) as error:
            raise DataError(
                wanted=f"a number for {field.name}" if field.name != "at" else "a JSON object for at",
                got=repr(text)[:60],
                where=where,
                do="correct it",
            ) from error
    return Figure(**made)


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
        if isinstance(value, int | float) and not isinstance(value, bool):
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
        for key, value in metrics.items() if isinstance(metrics, dict) else ():
            metric, comma, kind = key.partition(",")
            if isinstance(value, bool) or not isinstance(value, int | float) or metric.endswith("_stderr"):
                continue
            error = metrics.get(f"{metric}_stderr{comma}{kind}")
            spread = 1.96 * error if isinstance(error, int | float) else None
            n = (counts or {}).get(task)
            found.append(
                Figure(
                    checkpoint=str(name), protocol="lm_eval", dataset=str(task), metric=metric, value=float(value),
                    n=int(n.get("effective", 0)) if isinstance(n, dict) else 0,
                    low=None if spread is None else value - spread, high=None if spread is None else value + spread,
                    at={"filter": kind} if kind not in ("", "none") else {},
                )
            )  # fmt: skip
    return found
