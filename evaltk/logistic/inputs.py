"""Inputs of a softmax regression: block-wise reading and validation."""

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
    """Iterate over x in blocks: (first row, rows); an array may be memory-mapped."""
    for start in range(0, len(x), READ_ROWS):
        block = x[start : start + READ_ROWS]
        # A copy, since torch warns about read-only arrays.
        tensor = block if isinstance(block, torch.Tensor) else torch.from_numpy(np.array(block))
        yield start, tensor.to(device=device, dtype=dtype)


def features_type(x: Array) -> torch.dtype:
    """The dtype to compute in: float64 for float64 features, else float32. Raises: DataError: not [N, D]."""
    if x.ndim != 2 or 0 in x.shape:
        raise DataError(
            wanted="features [N, D], N and D at least 1", got=f"{list(x.shape)}", where="x", do="pass one row per image"
        )
    return torch.float64 if x.dtype in (torch.float64, np.dtype(np.float64)) else torch.float32


def check_finite(block: torch.Tensor, start: int) -> None:
    """Check features [n, D], whose first row is row `start`. Raises: DataError: not finite."""
    finite = torch.isfinite(block).all(dim=1)
    if not bool(finite.all()):
        raise DataError(
            wanted="finite features",
            got=f"NaN or infinity in {int((~finite).sum())} of {len(block)} rows",
            where=f"x, row {start + int((~finite).nonzero()[0])}",
            do="check the checkpoint (it may have diverged) and the images",
        )


def labels(y: Array, num_rows: int, num_classes: int, device: torch.device) -> torch.Tensor:
    """Labels [N] int64 on the device. Raises: SettingsError: num_classes < 2. DataError: labels out of range."""
    if num_classes < 2:
        do = "use data of two classes or more"
        raise SettingsError(wanted="num_classes >= 2", got=f"{num_classes}", where="num_classes", do=do)
    classes = torch.as_tensor(np.array(y) if isinstance(y, np.ndarray) else y)
    if classes.shape != (num_rows,) or classes.is_floating_point() or classes.dtype == torch.bool:
        raise DataError(
            wanted=f"integer labels [{num_rows}], one per row of the features",
            got=f"{classes.dtype} {list(classes.shape)}",
            where="y",
            do="pass the labels of the same images, in the same order",
        )
    classes = classes.to(device=device, dtype=torch.int64)
    outside = (classes < 0) | (classes >= num_classes)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise DataError(
            wanted=f"labels from 0 to {num_classes - 1}",
            got=f"{int(outside.sum())} others, the first of them {int(classes[row])}",
            where=f"y, row {row}",
            do="correct the labels or num_classes",
        )
    return classes


def fold_masks(folds: Array | None, y: torch.Tensor) -> torch.Tensor:
    """Training rows of each fold, [K, N] bool on the CPU; all rows for None.

    Raises: SettingsError: wrong shape or dtype. DataError: a fold with fewer than two classes.
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
            do="pass True for the rows that each fold trains on",
        )
    for fold, mask in enumerate(masks):
        classes = y.cpu()[mask].unique()
        if len(classes) < 2:
            raise DataError(
                wanted="training rows of two classes or more",
                got=f"a single class, {int(classes[0])}" if len(classes) else "no rows",
                where="y" if folds is None else f"fold {fold}",
                do="add images of other classes" if folds is None else "stratify the folds by class",
            )
    return masks


def check_settings(l2s: Sequence[float], limits: Limits) -> None:
    """Raises: SettingsError: no strengths, one that is not positive and finite, limits that cannot be met."""
    bad = [l2 for l2 in l2s if not (l2 > 0 and math.isfinite(l2))]
    if bad or not len(l2s):
        raise SettingsError(
            wanted="strengths l2 > 0, finite, at least one",
            got=f"l2 = {bad[0]}" if bad else "none",
            where="l2",
            do="use a small positive strength such as 1e-6; without a penalty the optimum may be at infinity",
        )
    if not (limits.tolerance > 0 and limits.max_iterations >= 1):
        raise SettingsError(
            wanted="tolerance > 0 and max_iterations >= 1",
            got=f"{limits.tolerance} and {limits.max_iterations}",
            where="logistic",
            do="use the defaults, 1e-5 and 1000",
        )
    if torch.get_float32_matmul_precision() != "highest":
        raise SettingsError(
            wanted="float32 products in full precision",
            got=f"torch's float32 matmul precision {torch.get_float32_matmul_precision()!r}",
            where="logistic",
            do='call torch.set_float32_matmul_precision("highest"); the others round features to 10 or 7 bits',
        )
