"""The loss of softmax regression, its gradient and its Hessian's diagonal, for the folds of one data set at once.

Weights live in rotated coordinates: the features, centred where there is an intercept, times the eigenvectors of their
Gram matrix. A rotation leaves the objective as it is (the penalty is a norm, the intercept takes up the mean), so that
the optimum is the same; but there the Hessian is much nearer to its diagonal. Where there are fewer rows than features
only their span is kept, outside of which the optimum is zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from evaltk.errors import DataError
from evaltk.logistic.inputs import Array, check_finite, features_type, fold_masks, labels, read
from evaltk.logistic.lbfgs import Value

CPU_LOGITS, GPU_LOGITS = 2**22, 2**27  # logits in flight: near what a processor's last cache holds; 512 MB on a GPU

FAINTEST = -69.0  # least logit below the row's largest, p = 1e-30: denormal numbers would slow every product tenfold


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """mean [D] and basis [D, R] (orthonormal columns), float64; constant: the intercept's feature, 0 for none."""

    mean: torch.Tensor
    basis: torch.Tensor
    constant: float

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Features [n, D] in these coordinates, [n, R (+ 1)] in their own type."""
        z = ((x.double() - self.mean) @ self.basis).to(x.dtype)
        return torch.cat([z, z.new_full((len(z), 1), self.constant)], dim=1) if self.constant else z

    def plain(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [C, D] and bias [C] or None on the features as they came, for weights [C, R (+ 1)] in float64."""
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
        gram += z.T @ z  # in its own type: any rotation is exact, this only has to be a good one
    rms = math.sqrt(max(float(gram.diagonal().sum()), 0.0) / num_rows)
    if not math.isfinite(rms):
        raise DataError(
            wanted="features whose squares can be summed",
            got="features so large that they overflow",
            where="features",
            do="look at the checkpoint and the images",
        )
    return Coordinates(mean=mean, basis=span @ torch.linalg.eigh(gram).eigenvectors, constant=(rms or 1.0) * centre)


class Problem:
    """Sum over the rows that a fold trains on of the cross-entropy, for weights [C, R] in the given coordinates.

    Rows are ordered by the folds that train on them, so that no row is multiplied for a fold that leaves it out, and
    each product serves all other folds.

    Args:
        x: [N, D] features. y: [N] int64 on the device. folds: [K, N] bool on the CPU, the rows trained on.
        block: rows at a time, or None for as many as the cache holds. Sums over blocks are made in float64.
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
        self.place = place.to(y.device)  # where row i of x has gone
        self.present = torch.stack([y.new_zeros(num_classes).scatter_(0, y[f], 1) > 0 for f in folds.to(y.device)])
        width = coordinates.basis.shape[1] + bool(coordinates.constant)
        self.z = torch.empty(len(y), width, dtype=dtype, device=y.device)
        for start, rows in read(x, y.device, dtype):
            self.z[self.place[start : start + len(rows)]] = coordinates.rows(rows)
        self.y = torch.empty_like(y)
        self.y[self.place] = y
        self._norms = torch.linalg.vector_norm(self.z, dim=1, dtype=torch.float64)
        self._scratch = self.z.new_empty(0)

    def values(self, asked: Sequence[tuple[int, torch.Tensor]]) -> list[Value]:
        """The loss of each (fold, weights [C, R]) asked for, all in one product and in the weights' own type."""
        weights = torch.stack([w for _, w in asked])  # [A, C, R]
        gradient = torch.zeros_like(weights, dtype=torch.float64)
        sums = torch.zeros(2, len(asked), dtype=torch.float64, device=self.z.device)  # losses, squared scales
        for start, end, live in self._live([fold for fold, _ in asked]):
            w = weights[live].flatten(0, 1)  # [L * C, R]
            for z, y, norms in self._blocks(start, end, len(live)):
                z = z.to(w.dtype)
                p, rest, loss = self._softmax(z, y, w)
                p.scatter_(2, y, -rest)  # now the residual; 1 - p of the own class would have lost its digits
                part = p.flatten(1).T @ z
                gradient[live] += part.view(len(live), self.num_classes, -1)
                sums[0, live] += loss.sum((0, 2))
                sums[1, live] += ((rest.double() * norms) ** 2).sum((0, 2))
        losses, squares = sums.tolist()
        return [
            Value(loss=loss, gradient=g, scale=math.sqrt(square))
            for loss, g, square in zip(losses, gradient.to(weights.dtype), squares, strict=True)
        ]

    def curvature(self, fold: int, w: torch.Tensor) -> torch.Tensor:
        """Diagonal [C, R] of the Hessian at weights [C, R]: sum_i p_ic (1 - p_ic) z_ir^2."""
        diagonal = torch.zeros_like(w, dtype=torch.float64)
        for start, end, _ in self._live([fold]):
            for z, y, _ in self._blocks(start, end, 1):
                z = z.to(w.dtype)
                p, rest, _ = self._softmax(z, y, w)
                own = p.sum(2, keepdim=True).sub_(1).neg_()  # p of the own class is 1 - rest
                p.mul_(1 - p).scatter_(2, y, rest * own)
                diagonal += p.flatten(1).T @ z.square()
        return diagonal.to(w.dtype)

    def _live(self, folds: list[int]) -> Iterator[tuple[int, int, list[int]]]:
        """(first row, end, positions in `folds` of those that train on these rows), where there are any."""
        for start, end, members in self._groups:
            if live := [at for at, fold in enumerate(folds) if fold in members]:
                yield start, end, live

    def _blocks(
        self, start: int, end: int, num_folds: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """z [n, R], y [n, L, 1] (the same for all L folds) and norms [n, 1, 1] of rows start to end, block by block."""
        most = GPU_LOGITS if self.z.is_cuda else CPU_LOGITS
        size = self.block or max(256, most // (num_folds * self.num_classes))
        for first in range(start, end, size):
            rows = slice(first, min(first + size, end))
            yield self.z[rows], self.y[rows, None, None].expand(-1, num_folds, 1), self._norms[rows, None, None]

    def _softmax(
        self, z: torch.Tensor, y: torch.Tensor, w: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For rows z [n, R] of classes y [n, L, 1] and weights [L * C, R] of L folds: p [n, L, C] with a zero for the
        own class, rest [n, L, 1] = 1 - p of the own class, and the loss [n, L, 1] float64; p lies in scratch memory.

        Rest and loss are made from what the other classes hold, so that both keep their digits when it is little.
        """
        if self._scratch.numel() < len(z) * len(w) or self._scratch.dtype != z.dtype:
            self._scratch = z.new_empty(len(z) * len(w))  # fresh memory for each block costs more than the softmax
        p = self._scratch[: len(z) * len(w)].view(len(z), len(w))
        p = torch.mm(z, w.T, out=p).view(len(z), -1, self.num_classes)
        p.sub_(p.amax(dim=2, keepdim=True))
        own = p.gather(2, y)  # [n, L, 1], at most 0
        p.clamp_(min=FAINTEST).exp_().scatter_(2, y, 0.0)
        others = p.sum(dim=2, keepdim=True)
        total = others + own.exp()
        p.div_(total)
        few = (others.double() / own.double().exp()).log1p()
        loss = torch.where(others < total / 2, few, total.double().log() - own.double())
        return p, others / total, loss


def pose(
    x: Array,
    y: Array,
    folds: Array | None,
    *,
    num_classes: int,
    intercept: bool,
    device: str | None,
    block: int | None,
) -> tuple[Problem, torch.Tensor]:
    """The problem, and the rows [K, N] bool on the CPU that each fold trains on; arguments and errors as `fit_path`."""
    dtype = features_type(x)
    where = torch.device(device) if device else x.device if isinstance(x, torch.Tensor) else torch.device("cpu")
    classes = labels(y, len(x), num_classes, where)
    masks = fold_masks(folds, classes)
    place = coordinates(x, centre=intercept, device=where, dtype=dtype)
    return Problem(x, classes, masks, num_classes=num_classes, coordinates=place, dtype=dtype, block=block), masks
