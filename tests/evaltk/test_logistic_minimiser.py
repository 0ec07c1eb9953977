"""The minimiser of logistic regression: L-BFGS by its compact form, with a line search."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from evaltk.logistic import lbfgs
from evaltk.logistic.path import extrapolate


def test_the_compact_direction_is_the_two_loop_recursion() -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(12, 12, generator=draw, dtype=torch.float64)
    hessian = a @ a.T + torch.eye(12)
    memory = lbfgs.Memory(4, torch.zeros(3, 4, dtype=torch.float64))
    memory.set_penalty(torch.zeros(4, dtype=torch.float64))
    memory.set_diagonal(hessian.diag().view(3, 4))
    pairs = []
    for _ in range(6):  # more than it keeps
        s = torch.randn(12, generator=draw, dtype=torch.float64)
        pairs.append((s, hessian @ s))
        memory.add(s.view(3, 4), (hessian @ s).view(3, 4))
    shift = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
    memory.set_penalty(shift)
    diagonal = hessian.diag() + shift.repeat(3)
    memory.set_diagonal(diagonal.view(3, 4))
    pairs = [(s, y + shift.repeat(3) * s) for s, y in pairs[-4:]]
    gradient = torch.randn(12, generator=draw, dtype=torch.float64)
    q, alphas = gradient.clone(), []
    for s, y in reversed(pairs):
        alphas.append((s @ q) / (s @ y))
        q = q - alphas[-1] * y
    s, y = pairs[-1]
    r = q / diagonal * (s @ y) / (y @ (y / diagonal))
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        r = r + (alpha - (y @ r) / (s @ y)) * s
    torch.testing.assert_close(memory.direction(gradient.view(3, 4)).flatten(), -r)


def test_a_quadratic_is_minimised_in_as_many_steps_as_scipys() -> None:
    curvatures = torch.logspace(-2, 2, 40, dtype=torch.float64).view(4, 10)
    target = torch.arange(40, dtype=torch.float64).view(4, 10)

    def value(w: torch.Tensor) -> lbfgs.Value:
        pull = curvatures * (w - target)
        return lbfgs.Value(loss=float((pull * (w - target)).sum()) / 2, gradient=pull, scale=1.0)

    start = lbfgs.point_at(torch.zeros(4, 10).double(), value(torch.zeros(4, 10).double()), torch.zeros(10).double())
    search: Generator[torch.Tensor, lbfgs.Value, lbfgs.Solution] = lbfgs.minimise(
        start,
        curvature=torch.ones_like,
        project=lambda direction: direction,
        memory=lbfgs.Memory(20, start.w),
        limits=lbfgs.Limits(tolerance=1e-6, max_iterations=2000),
    )
    asked = next(search)
    with pytest.raises(StopIteration) as end:
        while True:
            asked = search.send(value(asked))
    found: lbfgs.Solution = end.value.value
    assert found.converged
    torch.testing.assert_close(found.point.w, target, atol=1e-4, rtol=0)  # 1e-6 over the least curvature
    # With 20 pairs and curvatures from 0.01 to 100 both need about 490 steps.
    c, t = curvatures.numpy().ravel(), target.numpy().ravel()
    norms: list[float] = []
    minimize(
        lambda w: ((c * (w - t) ** 2).sum() / 2, c * (w - t)),
        np.zeros(40),
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": 20, "gtol": 1e-8, "ftol": 0, "maxiter": 2000},
        callback=lambda w: norms.append(float(np.linalg.norm(c * (w - t)))),
    )
    theirs = next(step for step, norm in enumerate(norms, start=1) if norm <= 1e-6)
    assert found.iterations <= 1.2 * theirs


def test_extrapolation_is_exact_for_parabolas() -> None:
    nodes = [(t, torch.tensor([t * t, 3 - t])) for t in (0.0, -1.0, -2.5)]
    torch.testing.assert_close(extrapolate(nodes, -4.0), torch.tensor([16.0, 7.0]))
    torch.testing.assert_close(extrapolate(nodes[1:], 1.0)[1], torch.tensor(2.0))
