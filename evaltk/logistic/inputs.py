"""What a softmax regression is given: read block by block, and refused where nothing can be fitted to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch

from evaltk.errors import DataError, SettingsError
from evaltk.logistic.lbfgs import Limits

Array: TypeAlias = torch.Tensor | np.ndarray
READ_ROWS = 16_384


def read(x: Array, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, rows) block by block; an array may be memory-mapped."""
    for start in range(0, len(x), READ_ROWS):
        block = x[start : start + READ_ROWS]
        # A copy: torch warns about arrays that cannot be written to.
        tensor = block if isinstance(block, torch.Tensor) else torch.from_numpy(np.array(block))
        yield start, tensor.to(device=device, dtype=dtype)


def features_type(x: Array) -> torch.dtype:
    """The type to compute in: float64 for features of that type, else float32. Raises: DataError: not [N, D]."""
    if x.ndim != 2 or 0 in x.shape:
        raise DataError(
            wanted="features [N, D], N and D at least 1", got=f"{list(x.shape)}", where="x", do="give one row an image"
        )
    return torch.float64 if x.dtype in (torch.float64, np.dtype(np.float64)) else torch.float32


def check_finite(block: torch.Tensor, start: int) -> None:
    """Raises: DataError: features [n, D], the first of them row `start`, that are not finite."""
    finite = torch.isfinite(block).all(dim=1)
    if not bool(finite.all()):
        raise DataError(
            wanted="finite features",
            got=f"{int((~finite).sum())} rows with NaN or infinity among {len(block)}",
            where=f"x, row {start + int((~finite).nonzero()[0])}",
            do="look at the checkpoint and the images; nothing can be said of such features",
        )


def labels(y: Array, num_rows: int, num_classes: int, device: torch.device) -> torch.Tensor:
    """Classes [N] int64 on the device. Raises: SettingsError: num_classes < 2. DataError: labels not in its range."""
    if num_classes < 2:
        raise SettingsError(wanted="num_classes >= 2", got=f"{num_classes}", where="num_classes", do="mend the setting")
    classes = torch.as_tensor(np.array(y) if isinstance(y, np.ndarray) else y)
    if classes.shape != (num_rows,) or classes.is_floating_point() or classes.dtype == torch.bool:
        raise DataError(
            wanted=f"integer labels [{num_rows}], one a row of the features",
            got=f"{classes.dtype} {list(classes.shape)}",
            where="y",
            do="give the labels of the same images, in the same order",
        )
    classes = classes.to(device=device, dtype=torch.int64)
    outside = (classes < 0) | (classes >= num_classes)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise DataError(
            wanted=f"labels from 0 to {num_classes - 1}",
            got=f"{int(outside.sum())} others, the first of them {int(classes[row])}",
            where=f"y, row {row}",
            do="give every image its class, or the right number of classes",
        )
    return classes


def fold_masks(folds: Array | None, y: torch.Tensor) -> torch.Tensor:
    """The rows trained on, [K, N] bool on the CPU; all rows for None.

    Raises: SettingsError: another shape or type. DataError: rows of a single class in a fold.
    """
    if folds is None:
        masks = torch.ones(1, len(y), dtype=torch.bool)
    else:
        masks = torch.as_tensor(np.array(folds) if isinstance(folds, np.ndarray) else folds).cpu()
    if masks.dtype != torch.bool or masks.ndim != 2 or masks.shape[1] != len(y) or not len(masks):
        raise SettingsError(
            wanted=f"folds [K, {len(y)}] bool, K at least 1",
            got=f"{masks.dtype} {list(masks.shape)}",
            where="folds",
            do="mark the rows that each fold trains on",
        )
    for fold, mask in enumerate(masks):
        kinds = y.cpu()[mask].unique()
        if len(kinds) < 2:
            raise DataError(
                wanted="rows of two classes or more to train on",
                got=f"a single class, {int(kinds[0])}" if len(kinds) else "no row",
                where="y" if folds is None else f"fold {fold}",
                do="add images of other classes" if folds is None else "make other folds",
            )
    return masks


def check_settings(l2s: Sequence[float], limits: Limits) -> None:
    """Raises: SettingsError: a strength that is not positive, none at all, limits that nothing can meet."""
    bad = [l2 for l2 in l2s if not (l2 > 0 and math.isfinite(l2))]
    if bad or not len(l2s):
        raise SettingsError(
            wanted="strengths l2 > 0, finite, at least one",
            got=f"l2 = {bad[0]}" if bad else "none",
            where="l2",
            do="without penalty the optimum may lie at infinity; take a small one, such as 1e-6",
        )
    if not (limits.tolerance > 0 and limits.max_iterations >= 1):
        raise SettingsError(
            wanted="tolerance > 0 and max_iterations >= 1",
            got=f"{limits.tolerance} and {limits.max_iterations}",
            where="logistic",
            do="mend the settings",
        )
    if torch.get_float32_matmul_precision() != "highest":
        raise SettingsError(
            wanted="float32 products in full precision",
            got=f"torch's float32 matmul precision {torch.get_float32_matmul_precision()!r}",
            where="logistic",
            do='torch.set_float32_matmul_precision("highest"); the others round features to 10 or 7 bits',
        )
