"""Show which classes results get wrong, and the calibration.

The least accurate classes, the most confused pairs, confidence against accuracy,
from finished results of classifiers (knn, linear, fewshot, transfer, finetune,
clustering, shift). All but clustering keep confidences. A k-NN prediction's
confidence is its class's share of the votes.

Examples:
    evaltk classes --runs runs --data imagenet=/data/imagenet
    evaltk classes --runs runs/mine --protocols shift --figure reliability.svg
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evaltk.cli import _options
from evaltk.data.options import DataFlags, DataOptions
from evaltk.errors import SettingsError, StorageError, nearest

if TYPE_CHECKING:
    from reports.classes import Judged

ENDINGS = (".svg", ".pdf", ".png")


@dataclass(frozen=True, kw_only=True)
class Options(DataFlags):
    """Classes of finished results.

    Attributes:
        runs: results folder (evaltk run --out).
        protocols: results of these protocols only.
        data: the dataset, for the names of its classes; without it they are numbers, where a result has no names.
        most: rows of a table.
        figure: write a reliability diagram of up to four classifiers: .svg, .pdf or .png.
        json: print JSON instead of tables.
    """

    runs: Path = Path("runs")
    protocols: tuple[str, ...] = ()
    data: str | None = field(default=None, metadata={"metavar": "[LABEL:]NAME=PATH"})
    most: int = 10
    figure: Path | None = field(default=None, metadata={"metavar": "FILE"})
    json: bool = False


def main(argv: list[str]) -> int:
    """Print the tables. Raises: StorageError: no such results. SettingsError."""
    options = _options.parse(Options, argv, "classes", __doc__)
    if options.most < 1:
        raise SettingsError(wanted="1 or more", got=str(options.most), where="--most", do="--most 10")
    if options.figure is not None and options.figure.suffix not in ENDINGS:
        do = f"--figure {options.figure.with_suffix('.svg')}"
        raise SettingsError(wanted=", ".join(ENDINGS), got=options.figure.name, where="--figure", do=do)
    judged = _judged(options)
    if not judged:
        do = "evaltk run CKPT --protocols knn --data NAME=PATH first"
        raise StorageError(wanted="results with predictions of classes", got="none", where=options.runs, do=do)
    from reports import classes

    if options.figure is not None:
        _draw(options.figure, judged)
    if options.json:
        print(json.dumps([_values(one, options.most) for one in judged]))
        return 0
    from reports.formats import render

    made = [table for one in judged for table in classes.tables(one, options.most)]
    sys.stdout.write(render.render_all(made, "terminal" if sys.stdout.isatty() else "md"))
    return 0


def _judged(options: Options) -> list[Judged]:
    from evaltk import datasets, results
    from evaltk.progress import log
    from reports import classes

    names: tuple[str, ...] = ()
    of = ""
    if options.data is not None:
        found = datasets.load(options.data, DataOptions.of(options, 0))
        names, of = getattr(found.splits[0], "classes", ()) if found.splits else (), found.name
    judged = []
    there: set[str] = set()
    for path, result in results.find(options.runs):
        there.add(result.protocol)
        if options.protocols and result.protocol not in options.protocols:
            continue
        known = names if result.data.name == of else ()
        arrays = results.read_predictions(path)
        judged += classes.of_result(result, arrays, known, complain=lambda error: log.warning("%s", error))
    if missing := [name for name in options.protocols if name not in there]:
        do = nearest(missing[0], there)
        raise SettingsError(wanted="a protocol of the results", got=repr(missing[0]), where="--protocols", do=do)
    return judged


def _draw(path: Path, judged: list[Judged]) -> None:
    from reports import classes
    from reports.figures import style

    if not any(one.confidence is not None for one in judged):
        do = "evaltk run CKPT --protocols knn --data NAME=PATH, with --again where it is older"
        raise SettingsError(wanted="a result with confidences", got="none", where="--figure", do=do)
    style.save(classes.diagram(judged), path.with_suffix(""), [path.suffix.removeprefix(".")], title="Reliability")


def _values(one: Judged, most: int) -> dict[str, object]:
    from dataclasses import asdict

    from evaltk.metrics import calibration

    number = 1 + int(max(one.target.max(), one.predicted.max()))
    target, predicted = one.readable()
    count, accuracy = calibration.by_class(target, predicted, number)
    found: dict[str, object] = {
        "title": one.title,
        "classes": {
            one.name(c): {"images": int(count[c]), "accuracy": float(accuracy[c])} for c in range(number) if count[c]
        },
        "confused": [
            asdict(pair) | {"label": one.name(pair.label), "predicted": one.name(pair.predicted)}
            for pair in calibration.worst_pairs(target, predicted, most)
        ],
    }
    if one.confidence is not None:
        found["ece"] = one.reliability().ece
    return found
