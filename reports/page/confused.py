"""The page's tables of classes: which are least accurate, and which are most often taken for which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from evaltk.errors import StorageError
from evaltk.types import Result
from reports import classes
from reports.table import Table

CLASSIFIERS = 6  # on the page; `evaltk classes` prints all
ROWS = 5  # of a table


def tables(
    found: Sequence[tuple[Path, Result]],
    read: Callable[[Path], Mapping[str, np.ndarray]],
    complain: Callable[[StorageError], object],
) -> tuple[list[Table], int]:
    """(tables of the first classifiers that got anything wrong, how many classifiers are left out).

    Args:
        complain: is told of arrays that are no predictions.
    """
    made: list[Table] = []
    shown = left = 0
    for path, result in found:
        for judged in classes.of_result(result, read(path), complain=complain)[:1]:
            if not (judged.target != judged.predicted).any():
                continue
            if shown == CLASSIFIERS:
                left += 1
                continue
            shown += 1
            made += classes.tables(judged, ROWS)[:2]
    return made, left
