"""Result files: one JSON per result, written whole or not at all, its per-image predictions beside it."""

from evaltk.results.store import (
    FORMAT,
    find,
    path_of,
    predictions_path,
    prepare,
    read,
    read_predictions,
    slug,
    write,
)

__all__ = ["FORMAT", "find", "path_of", "predictions_path", "prepare", "read", "read_predictions", "slug", "write"]
