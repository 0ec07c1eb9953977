"""A report on duplicate prototypes as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.table import Cell, Table, percent


def duplicates_table(report: Mapping[str, Any]) -> Table:
    """Unique prototypes and the largest set, a row per threshold; `report` as by `evaltk.prototypes.report`."""
    methods = list(dict.fromkeys(count["reading"] for count in report["counts"]))
    counts = {(count["threshold"], count["reading"]): count for count in report["counts"]}
    norm = report["norm"]
    return Table(
        title=f"Unique prototypes of {report['file']}",
        stub="cosine >",
        columns=tuple(f"{method}: {what}" for method in methods for what in ("unique", "largest set")),
        rows=tuple(
            (
                f"{threshold:g}",
                tuple(
                    Cell(value=float(counts[threshold, method][what]), unit="count", digits=0)
                    for method in methods
                    for what in ("unique", "largest")
                ),
            )
            for threshold in sorted({threshold for threshold, _ in counts})
        ),
        footnotes=(
            f"{report['prototypes']:,} prototypes of dimension {report['dimension']:,}, norms {norm['min']:.4g} to "
            f"{norm['max']:.4g} (median {norm['median']:.4g})",
            f"unique at cosine distance {report['distance']:g}: {percent(report['unique_share_by_distance']):.2f} %",
            str(report["verdict"]),
        ),
    )
