"""Result files: one JSON per result, written whole or not at all, its per-image predictions beside it."""

from evaltk.results.store import (
    FORMAT,
    DamagedResult,
    check_predictions,
    find,
    path_of,
    predictions_path,
    prepare,
    read,
    read_predictions,
    set_aside,
    slug,
    write,
)

__all__ = [
    "FORMAT", "DamagedResult", "check_predictions", "find", "path_of", "predictions_path", "prepare", "read",
    "read_predictions", "set_aside", "slug", "write",
]  # fmt: skip
