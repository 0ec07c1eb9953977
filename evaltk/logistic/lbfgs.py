"""L-BFGS for a smooth convex loss plus a quadratic penalty, as a generator that requests values from its caller.

The caller can thus evaluate many minimisations at once in one large matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch

SUFFICIENT_DECREASE, CURVATURE = 1e-4, 0.9  # Nocedal and Wright (2006), equation 3.7
LINE_TRIALS = 25
RUN = 8192  # products summed in their own dtype before the sum continues in float64
STALL = 60  # stop after this many iterations without a smaller objective or gradient
REFRESH = (0, 24, 100)  # iterations at which the Hessian diagonal is recomputed


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Converged when the gradient norm is at most tolerance times its scale; stopped after max_iterations."""

    tolerance: float
    max_iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """Loss without penalty at one point, its gradient [C, D], and the scale: root sum of squares of gradient terms."""

    loss: float
    gradient: torch.Tensor
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Weights w [C, D] with the objective loss + sum penalty w^2 / 2, its gradient [C, D] and the gradient's scale."""

    w: torch.Tensor
    value: Value
    penalty: torch.Tensor
    objective: float
    gradient: torch.Tensor
    gradient_norm: float
    scale: float


def point_at(w: torch.Tensor, value: Value, penalty: torch.Tensor) -> Point:
    """The point at weights [C, D] with the given loss, under a penalty [D]."""
    pull = penalty * w
    gradient = value.gradient + pull
    return Point(
        w=w,
        value=value,
        penalty=penalty,
        objective=value.loss + dot(pull, w) / 2,
        gradient=gradient,
        gradient_norm=math.sqrt(dot(gradient, gradient)),
        scale=math.sqrt(value.scale**2 + dot(pull, pull)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Result of a minimisation; relative: gradient norm over its scale."""

    point: Point
    relative: float
    iterations: int
    converged: bool


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """Sum of products, summed in float64."""
    return float((a * b).sum(dtype=torch.float64))


class Memory:
    """The last pairs (step s, change y of the gradient) in the compact form of Byrd, Nocedal and Schnabel (1994).

    The inverse Hessian is H = D + [S, DY] M [S, DY]^T with D diagonal and M from the inner products of the pairs, so a
    direction takes a few matrix-vector products, whatever the number of pairs. The pairs stay valid when the penalty
    changes (y changes by that difference times s), so they are reused along a path of penalties.

    Args:
        size: maximum number of pairs. like: weights [C, D] with the shape, dtype and device of the pairs.
    """

    def __init__(self, size: int, like: torch.Tensor) -> None:
        self.size = size
        self._s = like.new_zeros(size, *like.shape)  # [size, C, D]
        self._y = torch.zeros_like(self._s)
        self._sy = torch.zeros(size, size, dtype=torch.float64)  # s_i . y_j
        self._ydy = torch.zeros(size, size, dtype=torch.float64)  # y_i . D y_j
        self._order: list[int] = []  # slots, oldest first
        self._inverse = torch.ones_like(like)  # D
        self._penalty = like.new_zeros(())

    def double(self) -> None:
        """Convert the pairs to float64."""
        self._s, self._y = self._s.double(), self._y.double()

    def clear(self) -> bool:
        """Drop all pairs; returns whether there were any."""
        had_pairs, self._order = bool(self._order), []
        return had_pairs

    def set_penalty(self, penalty: torch.Tensor) -> None:
        """Adapt the pairs to another penalty [D]; `set_diagonal` must follow."""
        if n := len(self._order):
            self._y[:n] += (penalty - self._penalty) * self._s[:n]
            self._sy[:n, :n] = _products(self._s[:n], self._y[:n])
        self._penalty = penalty

    def set_diagonal(self, diagonal: torch.Tensor) -> None:
        """Set D = 1 / diagonal, where diagonal [C, D] > 0 is that of the Hessian, penalty included."""
        self._inverse = 1 / diagonal
        if n := len(self._order):
            self._ydy[:n, :n] = _products(self._y[:n], self._inverse * self._y[:n])

    def add(self, s: torch.Tensor, y: torch.Tensor) -> None:
        """Add a pair; one without positive curvature (possible only through rounding) is ignored."""
        if not dot(s, y) > 1e-12 * math.sqrt(dot(s, s) * dot(y, y)):
            return
        slot = self._order.pop(0) if len(self._order) == self.size else len(self._order)
        self._order.append(slot)
        n = len(self._order)
        self._s[slot], self._y[slot] = s, y
        self._sy[:n, slot] = _products(self._s[:n], y[None])[:, 0]
        self._ydy[:n, slot] = _products(self._y[:n], (self._inverse * y)[None])[:, 0]
        self._ydy[slot] = self._ydy[:, slot]

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """-H g for a gradient [C, D]."""
        scaled = self._inverse * gradient
        if not self._order:
            return -scaled
        n, age = len(self._order), torch.tensor(self._order)
        sy, ydy = self._sy[age][:, age], self._ydy[age][:, age]
        gamma = float(sy[-1, -1] / ydy[-1, -1])  # D scaled so that the newest pair has the right length
        sg, yg = (_products(pairs[:n], g[None])[age] for pairs, g in ((self._s, gradient), (self._y, scaled)))
        v = torch.linalg.solve_triangular(sy, sg, upper=True)  # [n, 1]; what is below the diagonal is not read
        inner = sy.diag()[:, None] * v + gamma * (ydy @ v - yg)
        u = torch.linalg.solve_triangular(sy.T, inner, upper=False)
        slots = torch.empty(2, n, dtype=torch.float64)
        slots[:, age] = torch.stack([u[:, 0], v[:, 0]])
        us, vy = slots.to(gradient)
        change = (vy @ self._y[:n].flatten(1)).view_as(gradient)
        return -(us @ self._s[:n].flatten(1)).view_as(gradient) - gamma * self._inverse * (gradient - change)


def _products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products [m, n] float64 on the CPU of a [m, C, D] with b [n, C, D]; runs of RUN in their own dtype."""
    a, b = a.flatten(1), b.flatten(1)
    total = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for start in range(0, a.shape[1], RUN):
        total += a[:, start : start + RUN] @ b[:, start : start + RUN].T
    return total.cpu()


def minimise(
    start: Point,
    *,
    curvature: Callable[[torch.Tensor], torch.Tensor],
    project: Callable[[torch.Tensor], torch.Tensor],
    memory: Memory,
    limits: Limits,
) -> Generator[torch.Tensor, Value, Solution]:
    """Minimise from a point: yields weights, expects their `Value` sent back, returns the `Solution`.

    Args:
        curvature: weights [C, D] -> diagonal [C, D] of the loss's Hessian, >= 0.
        project: direction [C, D] -> its projection onto a subspace that contains start, gradients and optimum.
        memory: pairs of earlier minimisations, or empty; updated in place.
    """
    memory.set_penalty(start.penalty)
    point, best, lowest, since = start, _solution(start, 0, limits), start.objective, 0
    for iteration in range(limits.max_iterations):
        if best.converged:
            break
        if iteration in REFRESH:
            diagonal = curvature(point.w) + point.penalty
            memory.set_diagonal(diagonal.clamp_min(float(diagonal.max()) * 1e-12))
        following = yield from _line_search(point, project(memory.direction(point.gradient)))
        if following is None and memory.clear():
            following = yield from _line_search(point, project(memory.direction(point.gradient)))
        if following is None or since > STALL:
            break  # the limit of the floating-point precision
        memory.add(following.w - point.w, following.gradient - point.gradient)
        point, solution = following, _solution(following, iteration + 1, limits)
        since += 1
        if point.objective < lowest - _rounding(point):
            lowest, since = point.objective, 0
        if solution.relative < best.relative:
            best, since = solution, 0
    return best


def _solution(point: Point, iterations: int, limits: Limits) -> Solution:
    relative = point.gradient_norm / point.scale if point.scale else 0.0
    return Solution(point=point, relative=relative, iterations=iterations, converged=relative <= limits.tolerance)


def _rounding(point: Point) -> float:
    """Bound on the rounding error of the objective."""
    return 8 * torch.finfo(point.w.dtype).eps * abs(point.objective)


def _line_search(point: Point, direction: torch.Tensor) -> Generator[torch.Tensor, Value, Point | None]:
    """A point along the direction that satisfies the Wolfe conditions, or None.

    The slope of a convex function increases along the line, so its sign tells on which side the minimum lies, even
    close to the optimum, where differences of the objective are rounding errors; these are therefore given slack.
    """
    slope, objective = dot(point.gradient, direction), point.objective
    if not slope < 0:
        return None
    slack = _rounding(point)
    step, low, low_slope, high, high_slope = 1.0, 0.0, slope, math.inf, math.nan
    for _ in range(LINE_TRIALS):
        w = point.w + step * direction
        trial = point_at(w, (yield w), point.penalty)
        at = dot(trial.gradient, direction)
        if (
            not at <= -CURVATURE * slope
            or not trial.objective <= objective + SUFFICIENT_DECREASE * step * slope + slack
        ):
            high, high_slope = step, at
        elif at < CURVATURE * slope:
            low, low_slope = step, at
        else:
            return trial
        secant = low - low_slope * (high - low) / (high_slope - low_slope) if high_slope > 0 else math.nan
        if math.isinf(high):
            ahead = step * slope / (slope - at) if at > slope else math.inf
            step *= min(10.0, max(1.5, ahead / step))
        elif low + 0.1 * (high - low) <= secant <= high - 0.1 * (high - low):
            step = secant
        else:
            step = (low + high) / 2
    return None
