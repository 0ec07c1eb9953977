"""Results in tidy form: one row per score, for pandas, spreadsheets and other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from evaltk.results.rows import cell
from evaltk.types import Result

COLUMNS = (
    "model", "protocol", "dataset", "split", "metric", "setting", "value", "low", "high", "n", "deviations",
)  # fmt: skip


def rows(results: Sequence[Result], called: Callable[[str], str] = str) -> list[dict[str, Any]]:
    """One dictionary per score, with the keys `COLUMNS`.

    `value`, `low` and `high` (the 95 % interval, None where there is none) are as in result files: fractions, unless
    the metric is a count or a correlation. `setting` is a dictionary, `deviations` a list of texts.

    Args:
        called: the name to show for a checkpoint's.
    """
    return [
        {
            "model": called(str(result.checkpoint.get("name"))),
            "protocol": result.protocol,
            "dataset": score.dataset,
            "split": score.split,
            "metric": score.metric,
            "setting": dict(score.at),
            "value": score.value,
            "low": score.interval[0] if score.interval else None,
            "high": score.interval[1] if score.interval else None,
            "n": score.n,
            "deviations": [deviation.words() for deviation in result.deviations],
        }
        for result in results
        for score in result.scores
    ]


def as_csv(found: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV; settings as ``k=20 temperature=0.07``, deviations separated by semicolons."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in found:
        setting = " ".join(f"{name}={value}" for name, value in row["setting"].items())
        texts = row | {"setting": setting, "deviations": "; ".join(row["deviations"])}
        writer.writerow({name: cell(value) for name, value in texts.items()})
    return stream.getvalue()


def as_json(found: Sequence[dict[str, Any]]) -> str:
    """Rows as a JSON array."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"
