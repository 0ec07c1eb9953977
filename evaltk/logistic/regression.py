"""L2-regularised softmax regression solved to convergence: one strength, a path of strengths, or cross-validation.

The objective is sum_i CE_i + l2 / 2 ||W||^2 with an unpenalised intercept: scikit-learn's at C = 1 / l2. It is
minimised by L-BFGS in rotated coordinates (`evaltk.logistic.problem`) with the inverse Hessian diagonal there as
initial guess. Paths run from strong to weak penalties; each starts from the parabola through the three previous
solutions and keeps the L-BFGS pairs. Features and products are float32 (float64 for float64 features), sums over rows
float64; a path that cannot reach the tolerance in float32 continues in float64.

A fit has converged when ||gradient|| <= tolerance * sqrt(sum_i (1 - p_i)^2 ||x_i||^2 + ||l2 W||^2), p_i the probability
of row i's true class, i.e. relative to the terms that cancel in the gradient. Unlike the gradient at zero weights, this
scale shrinks with the residuals, so weak penalties on separable data are solved as accurately as strong ones. Without
intercept, objective - optimum <= ||gradient||^2 / (2 l2), the duality gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from evaltk import spread
from evaltk.errors import DataError, SettingsError
from evaltk.logistic.inputs import READ_ROWS, Array, check_finite, check_settings, read
from evaltk.logistic.lbfgs import Limits, Solution
from evaltk.logistic.path import solve
from evaltk.logistic.problem import Problem, build_problem
from evaltk.metrics.classification import mean_per_class

TOLERANCE, MAX_ITERATIONS = 1e-5, 1000
TINY, SMALL = 2**24, 2**30  # products (rows x dimensions x classes x folds): not worth threads; not worth them inside


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticModel:
    """A fitted softmax regression.

    Attributes:
        weight: [C, D] in the features' dtype. bias: [C], or None without intercept; -inf (its limit) for a class
            without rows.
        l2: the strength. objective: sum of cross-entropies + l2 / 2 ||W||^2.
        gradient_norm: of the objective; the intercept counts as the weight of an extra feature with the root-mean-
            square norm of the centred features. relative_gradient: gradient_norm over the scale of the tolerance.
        iterations: of L-BFGS. converged: whether relative_gradient reached the tolerance.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    l2: float
    objective: float
    gradient_norm: float
    relative_gradient: float
    iterations: int
    converged: bool

    def scores(self, x: Array) -> torch.Tensor:
        """Logits [M, C] of features [M, D]. Raises: DataError: features of another dimension, or not finite."""
        return torch.cat([self.weight.new_empty(0, len(self.weight)), *self._logits(x)])

    def predict(self, x: Array) -> torch.Tensor:
        """Classes [M] int64 of features [M, D]. Raises: DataError: features of another dimension, or not finite."""
        none = torch.empty(0, dtype=torch.int64, device=self.weight.device)
        return torch.cat([none, *(logits.argmax(1) for logits in self._logits(x))])

    def confidence(self, x: Array) -> torch.Tensor:
        """Softmax probability of the predicted class, [M] float32, of features [M, D]. Raises: as `predict`."""
        none = torch.empty(0, device=self.weight.device)
        return torch.cat([none, *(logits.double().softmax(1).amax(1).float() for logits in self._logits(x))])

    def _logits(self, x: Array) -> Iterator[torch.Tensor]:
        """Logits [<= READ_ROWS, C], block by block."""
        if x.ndim != 2 or x.shape[1] != self.weight.shape[1]:
            raise DataError(
                wanted=f"features [M, {self.weight.shape[1]}], like those of the fit",
                got=f"features {list(x.shape)}",
                where="LogisticModel",
                do="pass features of the same net and recipe",
            )
        for start, rows in read(x, self.weight.device, self.weight.dtype):
            check_finite(rows, start)
            logits = rows @ self.weight.T
            yield logits if self.bias is None else logits + self.bias


def fit(
    x: Array,
    y: Array,
    *,
    l2: float,
    num_classes: int,
    intercept: bool,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
    device: str | None = None,
    block: int | None = None,
) -> LogisticModel:
    """The softmax regression that minimises sum_i CE_i + l2 / 2 ||W||^2; arguments and errors as `fit_path`."""
    path = fit_path(
        x,
        y,
        l2s=[l2],
        num_classes=num_classes,
        intercept=intercept,
        tolerance=tolerance,
        max_iterations=max_iterations,
        device=device,
        block=block,
    )
    return path[0][0]


@torch.no_grad()
def fit_path(
    x: Array,
    y: Array,
    *,
    l2s: Sequence[float],
    num_classes: int,
    intercept: bool,
    folds: Array | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
    device: str | None = None,
    block: int | None = None,
) -> tuple[tuple[LogisticModel, ...], ...]:
    """Softmax regressions at many strengths, for each fold.

    Args:
        x: [N, D] features, float32 (float64 is kept, other dtypes become float32); an array may be memory-mapped.
        y: [N] integer classes in [0, num_classes). Classes without rows are allowed.
        l2s: strengths, each > 0, in any order. intercept: whether to fit an (unpenalised) bias.
        folds: [K, N] bool, True for the rows that the fold trains on; None for a single fold of all rows.
        tolerance: of the relative gradient (see the module docstring).
        max_iterations: of L-BFGS per strength. device: default: that of x, or the CPU for an array.
        block: rows at a time; affects speed and rounding, not the optimum.

    Returns: [fold][strength, in the order of l2s]; check `converged` of each model.
    Raises: DataError: features or labels that cannot be fitted. SettingsError: strengths, folds, limits.
    """
    limits = Limits(tolerance=tolerance, max_iterations=max_iterations)
    check_settings(l2s, limits)
    with _threads(x, num_classes, folds):
        problem, masks = build_problem(
            x, y, folds, num_classes=num_classes, intercept=intercept, device=device, block=block
        )
        models: list[dict[float, LogisticModel]] = [{} for _ in masks]
        for fold, l2, solution in solve(problem, l2s, limits):
            models[fold][l2] = _model(problem, fold, l2, solution)
    return tuple(tuple(of_fold[l2] for l2 in l2s) for of_fold in models)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidation:
    """Scores of `cross_validate`; the choice of a strength is left to the caller.

    Attributes:
        l2s: the strengths. scores: [L, K] float64, fractions, of strength l on the rows held out by fold k.
        mean: [L] over folds. relative_gradients: [L, K] float64. converged: [L, K] bool.
    """

    l2s: tuple[float, ...]
    scores: torch.Tensor
    mean: torch.Tensor
    relative_gradients: torch.Tensor
    converged: torch.Tensor


@torch.no_grad()
def cross_validate(
    x: Array,
    y: Array,
    *,
    l2s: Sequence[float],
    num_classes: int,
    intercept: bool,
    folds: Array,
    metric: Literal["top1", "mean_per_class"],
    tolerance: float = 1e-4,
    max_iterations: int = MAX_ITERATIONS,
    device: str | None = None,
    block: int | None = None,
) -> CrossValidation:
    """Score every strength on the rows that each fold holds out.

    Args:
        metric: ``top1``, or ``mean_per_class``: the mean accuracy over the classes of the held-out rows.
        Others as `fit_path`; the default tolerance is looser since the models are only used for their scores.

    Raises: as `fit_path`. SettingsError: also an unknown metric, or a fold without held-out rows.
    """
    if metric not in ("top1", "mean_per_class"):
        raise SettingsError(wanted="top1 or mean_per_class", got=repr(metric), where="metric", do="use one of these")
    limits = Limits(tolerance=tolerance, max_iterations=max_iterations)
    check_settings(l2s, limits)
    with _threads(x, num_classes, folds):
        problem, masks = build_problem(
            x, y, folds, num_classes=num_classes, intercept=intercept, device=device, block=block
        )
        if bool(masks.all(dim=1).any()):
            raise SettingsError(
                wanted="folds that hold rows out",
                got="a fold that trains on all rows",
                where="folds",
                do="set some rows of each fold to False",
            )
        scores = torch.zeros(len(l2s), len(masks), dtype=torch.float64)
        relative, converged = torch.zeros_like(scores), torch.zeros_like(scores, dtype=torch.bool)
        for fold, l2, solution in solve(problem, l2s, limits):
            at = [i for i, other in enumerate(l2s) if other == l2]
            left_out = problem.place[~masks[fold].to(problem.place.device)]
            w = solution.point.w.to(problem.z.dtype)
            predicted = torch.cat([(problem.z[rows] @ w.T).argmax(1) for rows in left_out.split(READ_ROWS)])
            scores[at, fold] = _score(predicted, problem.y[left_out], metric, num_classes)
            relative[at, fold], converged[at, fold] = solution.relative, solution.converged
    mean = torch.tensor([math.fsum(row) / len(row) for row in scores.tolist()], dtype=torch.float64)
    return CrossValidation(l2s=tuple(l2s), scores=scores, mean=mean, relative_gradients=relative, converged=converged)


def _threads(x: Array, num_classes: int, folds: Array | None) -> AbstractContextManager[None]:
    """One thread an operation for small problems: folds and blocks of rows are spread over the threads instead."""
    products = math.prod(x.shape) * num_classes * (1 if folds is None else len(folds))
    if products < TINY:
        return spread.one_thread()
    return spread.small_operations() if products < SMALL else nullcontext()


def _model(problem: Problem, fold: int, l2: float, solution: Solution) -> LogisticModel:
    weight, bias = problem.coordinates.plain(solution.point.w.double())
    if bias is not None:
        bias = bias.masked_fill(~problem.present[fold], -torch.inf).to(problem.z.dtype)
    return LogisticModel(
        weight=weight.to(problem.z.dtype),
        bias=bias,
        l2=l2,
        objective=solution.point.objective,
        gradient_norm=solution.point.gradient_norm,
        relative_gradient=solution.relative,
        iterations=solution.iterations,
        converged=solution.converged,
    )


def _score(predicted: torch.Tensor, y: torch.Tensor, metric: str, num_classes: int) -> float:
    """Accuracy, or the mean accuracy per class over the classes in y."""
    right = predicted == y
    if metric == "top1":
        return int(right.sum()) / len(right)
    return mean_per_class(right, y, num_classes)
