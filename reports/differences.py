"""Two checkpoints' prototypes side by side, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaltk.types import Result, Score
from reports import comparable
from reports.table import Cell, Table, percent

# Row, score, unit, digits. The scores are those without centre at the first temperature, and of the evaluated branch.
ROWS = (
    ("unique prototypes, cosine > 0.9", "unique_at_0.9_count", "count", 0),
    ("unique (%)", "unique_share", "%", 2),
    ("largest set", "largest_at_0.9_count", "count", 0),
    ("sets of at least 1 %", "large_sets_count", "count", 0),
    ("unused among these (% of prototypes)", "large_unused_share", "%", 2),
    ("void set (%)", "void_share", "%", 2),
    ("all void sets (%)", "void_sets_share", "%", 2),
    ("cosine of the set with the data mean", "void_cosine", "count", 4),
    ("its percentile among random directions", "void_random_percentile", "%", 2),
    ("its percentile among other prototypes", "void_prototype_percentile", "%", 2),
    ("assigned an image (%)", "used_share", "%", 2),
    ("effective number by responsibility", "perplexity_count", "count", 1),
    ("the same (% of K)", "effective_share", "%", 2),
    ("log C_p in the winning score (%)", "constant_share", "%", 2),
    ("images that log C_p decides (%)", "constant_decides_share", "%", 2),
    ("purity (%)", "purity", "%", 2),
    ("NMI with the classes (%)", "nmi", "%", 2),
)
SETS = 8  # sets listed for a checkpoint
PAIRS = 10  # matched pairs listed


def as_values(a: Result, b: Result) -> dict[str, Any]:
    """{A, B: {score: value}} and the verdicts, as plain values."""
    named = {"A": a, "B": b}
    values = {side: {m: s.value for _, m, _, _ in ROWS if (s := _score(r, m))} for side, r in named.items()}
    return values | {"verdicts": {side: list(r.notes[:2]) for side, r in named.items()}}


def tables(
    pair: tuple[Result, Result], arrays: Sequence[Mapping[str, np.ndarray]], matched: Mapping[str, Any]
) -> list[Table]:
    """Scores side by side, sets of duplicates with their images by class, use by class, and the matching.

    Args:
        arrays: of both results. matched: fields of `evaltk.prototypes.matching.Matching`.
    """
    labels = comparable.labels(pair)
    if labels[0] == labels[1]:
        labels = [f"{label} ({side})" for label, side in zip(labels, "AB", strict=True)]
    made = [_scores(pair, labels)]
    made += [_sets(label, one) for label, one in zip(labels, arrays, strict=True) if len(one["set_size"])]
    return [*made, _classes(labels, arrays), _matched(labels, matched)]


def _score(result: Result, metric: str) -> Score | None:
    return next((score for score in result.scores if score.metric == metric), None)


def _scores(pair: tuple[Result, Result], labels: Sequence[str]) -> Table:
    rows = []
    for title, metric, unit, digits in ROWS:
        found = [_score(result, metric) for result in pair]
        if any(found):
            values = [None if score is None else score.value for score in found]
            both = values[0] is not None and values[1] is not None
            change = values[1] - values[0] if both else None  # type: ignore[operator]
            cells = (Cell(value=v, unit=unit, digits=digits) for v in (*values, change))  # type: ignore[arg-type]
            rows.append((title, tuple(cells)))
    notes = comparable.notes(labels, pair)
    sizes = [len_of(result) for result in pair]
    if sizes[0] != sizes[1]:
        notes.append(f"K differs: {sizes[0]:,} and {sizes[1]:,}; shares can be compared, counts less so")
    return Table(
        title=f"Prototypes on {pair[0].data.name}",
        stub="",
        columns=(*labels, "B - A"),
        rows=tuple(rows),
        footnotes=tuple(notes),
    )


def len_of(result: Result) -> int:
    """The number of prototypes K."""
    score = _score(result, "unique_share")
    return 0 if score is None else score.n


def _sets(label: str, arrays: Mapping[str, np.ndarray]) -> Table:
    """Sets of at least 1 %: size, images, cosine, and which classes the images are of."""
    rows = []
    for n in range(min(SETS, len(arrays["set_size"]))):
        by_class = arrays["set_classes"][n]
        most = np.argsort(-by_class, kind="stable")[:3]
        told = [f"class {c}: {by_class[c]:,}" for c in most.tolist() if by_class[c]]
        values = (arrays["set_size"][n], arrays["set_images"][n], arrays["set_cosine"][n])
        cells = [Cell(value=float(v), unit="count", digits=d) for v, d in zip(values, (0, 0, 3), strict=True)]
        rows.append((f"set {n + 1}: {', '.join(told) or 'unused'}", tuple(cells)))
    left = len(arrays["set_size"]) - len(rows)
    return Table(
        title=f"Sets of duplicates of {label}",
        stub="classes of its images",
        columns=("prototypes", "images", "cosine with the data mean"),
        rows=tuple(rows),
        footnotes=(f"{left} smaller sets are not listed",) if left else (),
    )


def _classes(labels: Sequence[str], arrays: Sequence[Mapping[str, np.ndarray]]) -> Table:
    """Prototypes used by the images of each class, and their effective number."""
    columns = [(name, one[name], digits) for one in arrays for name, digits in _USE]
    rows = []
    for c in range(len(arrays[0]["class_prototypes"])):
        cells = (Cell(value=_number(values[c]), unit="count", digits=digits) for _, values, digits in columns)
        rows.append((f"class {c}", tuple(cells)))
    titles = [f"{label}: {what}" for label in labels for what in ("used", "effective")]
    return Table(title="Prototypes by class", stub="", columns=tuple(titles), rows=tuple(rows), footnotes=())


_USE = (("class_prototypes", 0), ("class_effective", 1))


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _matched(labels: Sequence[str], matched: Mapping[str, Any]) -> Table:
    pairs = matched["pairs"]
    rows = [
        (f"{a:,} and {b:,}", (Cell(value=float(images), unit="count", digits=0),))
        for a, b, images in pairs[:PAIRS].tolist()
    ]
    how = "best one-to-one matching" if matched["best"] else "one-to-one matching, largest pairs first"
    return Table(
        title=f"Prototypes of {labels[0]} and {labels[1]} with the same images",
        stub="prototypes of A and B",
        columns=("images",),
        rows=tuple(rows),
        footnotes=(
            f"{how}: {len(pairs):,} pairs share {percent(matched['share']):.1f} % of the images "
            f"({percent(matched['chance']):.1f} % for images in random order)",
            f"NMI of the two assignments: {percent(matched['nmi']):.1f} %",
            *([f"the {PAIRS} pairs with the most images are listed"] if len(pairs) > PAIRS else []),
        ),
    )
