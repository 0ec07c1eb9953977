"""Loss, gradient and Hessian diagonal of softmax regression, for all folds of one dataset at once.

Weights are in rotated coordinates: the features (centred if there is an intercept) times the eigenvectors of their Gram
matrix. A rotation does not change the objective (the penalty is a norm, the intercept absorbs the mean), so the optimum
is the same, but the Hessian is much closer to diagonal. With fewer rows than features only their span is kept; the
optimum is zero outside it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from evaltk import spread
from evaltk.errors import DataError
from evaltk.logistic.inputs import Array, check_finite, features_type, fold_masks, labels, read
from evaltk.logistic.lbfgs import Value

CPU_LOGITS, GPU_LOGITS = 2**22, 2**27  # logits in memory at a time: about a CPU's last-level cache; 512 MB on a GPU
AT_ONCE, PARTS = 8, 2**25  # blocks computed side by side, as many as their gradients have no more values
SMALL = 2**27  # products (rows x folds x classes x dimensions) below which a block is not worth a second thread

FAINTEST = -69.0  # clamp for logits less the row's largest (p = 1e-30): denormals would slow products tenfold


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """mean [D] and basis [D, R] (orthonormal columns), float64; constant: the intercept's feature, 0 without one."""

    mean: torch.Tensor
    basis: torch.Tensor
    constant: float

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Features [n, D] in these coordinates: [n, R (+ 1)], same dtype."""
        z = ((x.double() - self.mean) @ self.basis).to(x.dtype)
        return torch.cat([z, z.new_full((len(z), 1), self.constant)], dim=1) if self.constant else z

    def plain(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [C, D] and bias [C] (or None) for the original features, from weights [C, R (+ 1)] float64."""
        rank = self.basis.shape[1]
        weight = w[:, :rank] @ self.basis.T
        return weight, w[:, rank] * self.constant - weight @ self.mean if self.constant else None


def coordinates(x: Array, *, centre: bool, device: torch.device, dtype: torch.dtype) -> Coordinates:
    """The coordinates for features x [N, D]. Raises: DataError: features that are not finite."""
    num_rows, dim = x.shape
    total = torch.zeros(dim, dtype=torch.float64, device=device)
    for start, block in read(x, device, dtype):
        check_finite(block, start)
        total += block.sum(0, dtype=torch.float64)
    mean = total / num_rows if centre else torch.zeros_like(total)
    span = torch.eye(dim, dtype=torch.float64, device=device)
    if num_rows < dim:
        span = torch.linalg.qr((torch.cat([block for _, block in read(x, device, dtype)]).double() - mean).T).Q
    gram = torch.zeros(span.shape[1], span.shape[1], dtype=torch.float64, device=device)
    for _, block in read(x, device, dtype):
        z = ((block.double() - mean) @ span).to(dtype)
        gram += z.T @ z  # float64 is not needed: any rotation is exact, a good one only speeds up convergence
    rms = math.sqrt(max(float(gram.diagonal().sum()), 0.0) / num_rows)
    if not math.isfinite(rms):
        raise DataError(
            wanted="features whose squares can be summed",
            got="features so large that they overflow",
            where="features",
            do="check the checkpoint (it may have diverged) and the images",
        )
    return Coordinates(mean=mean, basis=span @ torch.linalg.eigh(gram).eigenvectors, constant=(rms or 1.0) * centre)


class Problem:
    """Cross-entropy summed over the training rows of a fold, for weights [C, R] in the given coordinates.

    Rows are grouped by the folds that train on them, so that each product serves exactly the folds that need it.

    Args:
        x: [N, D] features. y: [N] int64 on the device. folds: [K, N] bool on the CPU, the training rows.
        block: rows at a time; None: as many as fit the cache. Sums over blocks are float64.
    """

    def __init__(
        self,
        x: Array,
        y: torch.Tensor,
        folds: torch.Tensor,
        *,
        num_classes: int,
        coordinates: Coordinates,
        dtype: torch.dtype,
        block: int | None,
    ) -> None:
        patterns, which = folds.T.unique(dim=0, return_inverse=True)
        order = which.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        ends = which.bincount(minlength=len(patterns)).cumsum(0).tolist()
        self._groups = [
            (start, end, pattern.nonzero()[:, 0].tolist())
            for start, end, pattern in zip([0, *ends], ends, patterns, strict=False)
        ]
        self.num_classes, self.coordinates, self.block = num_classes, coordinates, block
        self.place = place.to(y.device)  # position of row i of x
        self.present = torch.stack([y.new_zeros(num_classes).scatter_(0, y[f], 1) > 0 for f in folds.to(y.device)])
        width = coordinates.basis.shape[1] + bool(coordinates.constant)
        self.z = torch.empty(len(y), width, dtype=dtype, device=y.device)
        for start, rows in read(x, y.device, dtype):
            self.z[self.place[start : start + len(rows)]] = coordinates.rows(rows)
        self.y = torch.empty_like(y)
        self.y[self.place] = y
        self._norms = torch.linalg.vector_norm(self.z, dim=1, dtype=torch.float64)
        self._scratch: deque[torch.Tensor] = deque()  # one for each thread that computes

    def values(self, points: Sequence[tuple[int, torch.Tensor]]) -> list[Value]:
        """The loss at each point (fold, weights [C, R]), all in one product and in the weights' dtype."""
        weights = torch.stack([w for _, w in points])  # [A, C, R]
        gradient = torch.zeros_like(weights, dtype=torch.float64)
        sums = torch.zeros(2, len(points), dtype=torch.float64, device=self.z.device)  # losses, squared scales
        blocks = [
            (live, *block)
            for start, end, live in self._live([fold for fold, _ in points])
            for block in self._blocks(start, end, len(live))
        ]
        at_once = max(1, min(AT_ONCE, PARTS // weights.numel()))
        for first in range(0, len(blocks), at_once):
            wave = blocks[first : first + at_once]
            parts: list[tuple[torch.Tensor, ...]] = [()] * len(wave)

            def compute(n: int, wave: Any = wave, parts: Any = parts) -> None:
                live, z, y, norms = wave[n]
                parts[n] = self._part(z.to(weights.dtype), y, norms, weights[live].flatten(0, 1))

            self._each(compute, wave, weights[0].numel())
            for (live, *_), (product, loss, squares) in zip(wave, parts, strict=True):  # in order: the same bits
                gradient[live] += product.view(len(live), self.num_classes, -1)
                sums[0, live] += loss
                sums[1, live] += squares
        losses, squares = sums.tolist()
        return [
            Value(loss=loss, gradient=g, scale=math.sqrt(square))
            for loss, g, square in zip(losses, gradient.to(weights.dtype), squares, strict=True)
        ]

    def _part(
        self, z: torch.Tensor, y: torch.Tensor, norms: torch.Tensor, w: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a block of rows: the gradient [L * C, R], losses [L] and squared scales [L]; arguments as `_softmax`."""
        with self._softmax(z, y, w) as (p, others, loss):
            p.scatter_(2, y, -others)  # the residual; computing 1 - p of the true class would cancel
            return p.flatten(1).T @ z, loss.sum((0, 2)), ((others.double() * norms) ** 2).sum((0, 2))

    def _each(self, compute: Callable[[int], None], wave: Sequence[tuple[Any, ...]], weights: int) -> None:
        """Call compute(n) for each block: side by side, or one after the other where each keeps all threads busy."""
        products = max(len(live) * len(z) for live, z, *_ in wave) * weights
        if products < SMALL or len(wave) >= torch.get_num_threads():  # true inside `spread.small_operations`
            spread.each(compute, range(len(wave)), self.z.device)
        else:
            for n in range(len(wave)):
                compute(n)

    def curvature(self, fold: int, w: torch.Tensor) -> torch.Tensor:
        """Diagonal [C, R] of the Hessian at weights [C, R]: sum_i p_ic (1 - p_ic) z_ir^2."""
        diagonal = torch.zeros_like(w, dtype=torch.float64)
        for start, end, _ in self._live([fold]):
            for z, y, _ in self._blocks(start, end, 1):
                z = z.to(w.dtype)
                with self._softmax(z, y, w) as (p, others, _):
                    own = p.sum(2, keepdim=True).sub_(1).neg_()  # p of the true class, 1 - others
                    p.mul_(1 - p).scatter_(2, y, others * own)
                    diagonal += p.flatten(1).T @ z.square()
        return diagonal.to(w.dtype)

    def _live(self, folds: list[int]) -> Iterator[tuple[int, int, list[int]]]:
        """Row groups: (first row, end, positions in `folds` of those that train on these rows), empty ones skipped."""
        for start, end, members in self._groups:
            if live := [at for at, fold in enumerate(folds) if fold in members]:
                yield start, end, live

    def _blocks(
        self, start: int, end: int, num_folds: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Blocks of rows start to end: z [n, R], y [n, L, 1] (the same for all L folds) and norms [n, 1, 1]."""
        most = GPU_LOGITS if self.z.is_cuda else CPU_LOGITS
        size = self.block or max(256, most // (num_folds * self.num_classes))
        for first in range(start, end, size):
            rows = slice(first, min(first + size, end))
            yield self.z[rows], self.y[rows, None, None].expand(-1, num_folds, 1), self._norms[rows, None, None]

    @contextmanager
    def _softmax(
        self, z: torch.Tensor, y: torch.Tensor, w: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Softmax and loss of rows z [n, R] with classes y [n, L, 1] under weights [L * C, R] of L folds.

        Yields: p [n, L, C] in scratch memory, zero for the true class; 1 - p of the true class [n, L, 1]; the loss
            [n, L, 1] float64. The latter two are summed from the other classes, so that small values keep their digits.
        """
        try:
            scratch = self._scratch.pop()
        except IndexError:
            scratch = z.new_empty(0)
        if scratch.numel() < len(z) * len(w) or scratch.dtype != z.dtype:
            scratch = z.new_empty(len(z) * len(w))  # allocating per block costs more than the softmax
        p = scratch[: len(z) * len(w)].view(len(z), len(w))
        p = torch.mm(z, w.T, out=p).view(len(z), -1, self.num_classes)
        p.sub_(p.amax(dim=2, keepdim=True))
        own = p.gather(2, y)  # [n, L, 1], at most 0
        p.clamp_(min=FAINTEST).exp_().scatter_(2, y, 0.0)
        others = p.sum(dim=2, keepdim=True)
        total = others + own.exp()
        p.div_(total)
        few = (others.double() / own.double().exp()).log1p()
        loss = torch.where(others < total / 2, few, total.double().log() - own.double())
        yield p, others / total, loss
        self._scratch.append(scratch)


def build_problem(
    x: Array,
    y: Array,
    folds: Array | None,
    *,
    num_classes: int,
    intercept: bool,
    device: str | None,
    block: int | None,
) -> tuple[Problem, torch.Tensor]:
    """The problem, and the training rows of each fold [K, N] bool on the CPU; arguments and errors as `fit_path`."""
    dtype = features_type(x)
    where = torch.device(device) if device else x.device if isinstance(x, torch.Tensor) else torch.device("cpu")
    classes = labels(y, len(x), num_classes, where)
    masks = fold_masks(folds, classes)
    rotated = coordinates(x, centre=intercept, device=where, dtype=dtype)
    return Problem(x, classes, masks, num_classes=num_classes, coordinates=rotated, dtype=dtype, block=block), masks
