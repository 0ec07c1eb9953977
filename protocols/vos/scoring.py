"""J and F of result masks in files, in parallel over sequences, and the official tables."""

from __future__ import annotations

import csv
import io
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaltk import files, machine, processes, safe_arrays
from evaltk.data import frames
from evaltk.errors import DataError
from evaltk.metrics import segmentation
from evaltk.metrics.segmentation import ObjectScores

FEW = 4  # up to this many sequences are scored without worker processes
GLOBAL_COLUMNS = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
MEASURES = ("J&F", "J", "F", "J_recall", "J_decay", "F_recall", "F_decay")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One sequence to score.

    Attributes:
        truth: index masks of all frames. result: index masks, or an .npz file whose `masks` are ids [T, H, W].
        drop_last: exclude the last frame (the first always is, as it was given).
        merged: take all objects of the truth for one, as DAVIS-2016 does.
    """

    name: str
    truth: tuple[Path, ...]
    result: tuple[Path, ...] | Path
    drop_last: bool = True
    merged: bool = False


def score(task: Task) -> tuple[ObjectScores, ...]:
    """J and F of each object of a sequence.

    Raises: DataError: a mask that is missing, unreadable, RGB or of another size (the file is named), an id that is
        not in the first annotation.
    """
    truth = frames.read_masks(task.truth)
    truth = frames.one_object(truth) if task.merged else truth
    if isinstance(task.result, Path):
        result = safe_arrays.read_npz(task.result)["masks"]
    else:
        result = _result(task, truth)
    if not task.drop_last:  # `evaluate_sequence` drops both ends, so append a frame for it to drop
        truth, result = (np.concatenate([ids, ids[-1:]]) for ids in (truth, result))
    return segmentation.evaluate_sequence(truth, result, sequence=task.name)


def _result(task: Task, truth: np.ndarray) -> np.ndarray:
    """Result ids [T, H, W] of the scored frames; the other frames, which are not used, stay 0."""
    assert not isinstance(task.result, Path)
    num_objects = int(np.max(truth[0], where=truth[0] != frames.VOID, initial=0))
    result = np.zeros_like(truth)
    for t in range(1, len(truth) - task.drop_last):
        path = task.result[t]
        ids = frames.read_ids(path)
        if ids.shape != truth[t].shape:
            height, width = truth[t].shape
            raise DataError(
                wanted=f"a mask of {width} x {height}, like the annotation",
                got=f"{ids.shape[1]} x {ids.shape[0]}",
                where=path,
                do="resize the masks to the annotations",
            )
        if ids.max() > num_objects:
            raise DataError(
                wanted=f"object ids 0 to {num_objects}, those of the first annotation",
                got=f"id {ids.max()}",
                where=path,
                do="use the ids of the annotation; results must not contain void (255)",
            )
        result[t] = ids
    return result


def score_all(tasks: Sequence[Task], *, workers: int | None = None) -> list[tuple[ObjectScores, ...]]:
    """`score` of each task, in order, on all cores if there are many tasks. Raises: as `score`."""
    if workers is None:
        workers = machine.usable_cores() if len(tasks) > FEW else 1
    if workers <= 1:
        return [score(task) for task in tasks]
    # Spawn: forked children of a process with threads or a GPU can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=processes.start_worker) as pool:
        return list(pool.map(score, tasks))


def measures(one: ObjectScores) -> tuple[float, ...]:
    """The values of `MEASURES` for one object, as fractions."""
    row = one.columns()
    mean = (row["J-Mean"] + row["F-Mean"]) / 2
    return (mean, row["J-Mean"], row["F-Mean"], row["J-Recall"], row["J-Decay"], row["F-Recall"], row["F-Decay"])


def write_tables(folder: Path, split: str, objects: Sequence[ObjectScores]) -> tuple[Path, Path]:
    """Write the official global and per-object tables (fractions, three digits). Returns: their paths.

    Source: evaluation_method.py:31-68 of davis2017-evaluation at ac7c43f.
    """
    means = segmentation.summarise(objects)
    rows = [(one.name, one.columns()["J-Mean"], one.columns()["F-Mean"]) for one in objects]
    first, second = (folder / f"{kind}_results-{split}.csv" for kind in ("global", "per-sequence"))
    _write_csv(first, GLOBAL_COLUMNS, [tuple(means[column] for column in GLOBAL_COLUMNS)])
    _write_csv(second, ("Sequence", "J-Mean", "F-Mean"), rows)
    return first, second


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[v if isinstance(v, str) else f"{v:.3f}" for v in row] for row in rows])
    files.write_text(path, text.getvalue())
