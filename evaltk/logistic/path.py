"""Softmax regression along a path of strengths per fold; all folds share their matrix products."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from evaltk import spread
from evaltk.logistic.lbfgs import Limits, Memory, Solution, Value, minimise, point_at
from evaltk.logistic.problem import Problem

PAIRS, PAIR_BYTES = 40, 2**30  # L-BFGS pairs; fewer if those of all folds would exceed this memory
SMALL = 2**17  # weights below which a step of L-BFGS is not worth a second thread
SINGLE = 1e-6  # relative gradient that is attainable in float32
ABSENT_LOGIT = -1e4  # logit of a class without rows (with intercept): its probability is 0


def solve(problem: Problem, l2s: Sequence[float], limits: Limits) -> Iterator[tuple[int, float, Solution]]:
    """Yield (fold, strength, solution) for each fold and each strength of l2s, as they converge."""
    done: list[tuple[int, float, Solution]] = []
    paths = [_path(problem, fold, l2s, limits, done) for fold in range(len(problem.present))]
    pending = {fold: next(path) for fold, path in enumerate(paths)}  # weights whose value each path waits for
    while pending:
        # Which folds share a product affects its rounding, so the order of dtypes is fixed (a set's is not).
        for dtype in (torch.float32, torch.float64):
            batch = [(fold, w) for fold, w in pending.items() if w.dtype == dtype]
            if not batch:
                continue
            values = dict(zip((fold for fold, _ in batch), problem.values(batch), strict=True))
            following: dict[int, torch.Tensor] = {}

            def go_on(fold: int, values: Mapping[int, Value] = values, following: Any = following) -> None:
                with suppress(StopIteration):
                    following[fold] = paths[fold].send(values[fold])

            if batch[0][1].numel() < SMALL or len(batch) >= torch.get_num_threads():
                spread.each(go_on, values, problem.z.device)
            else:
                for fold in values:
                    go_on(fold)
            left = {fold: w for fold, w in pending.items() if fold not in values}
            pending = dict(sorted((left | following).items()))
        yield from sorted(done, key=lambda entry: entry[0])
        done.clear()


def _path(
    problem: Problem, fold: int, l2s: Sequence[float], limits: Limits, done: list[tuple[int, float, Solution]]
) -> Generator[torch.Tensor, Value, None]:
    """One fold from the strongest penalty to the weakest: yields weights [C, R] and expects their `Value` sent back."""
    w, penalised, moving = _start(problem, fold)

    def balance(direction: torch.Tensor) -> torch.Tensor:
        # A vector added to all classes changes no probability but costs penalty: at the optimum it is zero.
        return moving * (direction - (moving * direction).sum(0) / moving.sum())

    memory = Memory(_num_pairs(problem), w)
    search = partial(minimise, curvature=partial(problem.curvature, fold), project=balance, memory=memory)
    value = yield w
    nodes: list[tuple[float, torch.Tensor]] = []
    for l2 in sorted(set(l2s), reverse=True):
        point = point_at(w, value, l2 * penalised)
        if len(nodes) > 1 and not point.gradient_norm <= limits.tolerance * point.scale:
            guess = extrapolate(nodes, math.log(l2))
            ahead = point_at(guess, (yield guess), l2 * penalised)
            point = ahead if ahead.objective < point.objective else point
        single = w.dtype != torch.float64
        nearly = replace(limits, tolerance=max(limits.tolerance, SINGLE)) if single else limits
        solution = yield from search(point, limits=nearly)
        left = replace(limits, max_iterations=limits.max_iterations - solution.iterations)
        if single and solution.relative > limits.tolerance and left.max_iterations:
            # Float32 is exhausted here, and more so at weaker penalties: continue in float64.
            memory.double()
            penalised, moving, w = penalised.double(), moving.double(), solution.point.w.double()
            nodes = [(place, node.double()) for place, node in nodes]
            refined = yield from search(point_at(w, (yield w), l2 * penalised), limits=left)
            solution = replace(refined, iterations=solution.iterations + refined.iterations)
        done.append((fold, l2, solution))
        w, value = solution.point.w, solution.point.value
        nodes = [*nodes[-2:], (math.log(l2), w)]


def _start(problem: Problem, fold: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(initial weights [C, R], penalised columns [R], rows to update [C, 1]), the latter two as ones and zeros."""
    penalised = problem.z.new_ones(problem.z.shape[1])
    moving = problem.z.new_ones(problem.num_classes, 1)
    w = problem.z.new_zeros(problem.num_classes, len(penalised))
    if problem.coordinates.constant:
        penalised[-1] = 0.0
        moving = problem.present[fold, :, None].to(w)
        w[:, -1:] = (1 - moving) * (ABSENT_LOGIT / problem.coordinates.constant)
    return w, penalised, moving


def _num_pairs(problem: Problem) -> int:
    pair = 2 * problem.num_classes * problem.z.shape[1] * problem.z.element_size()
    return max(5, min(PAIRS, PAIR_BYTES // (pair * len(problem.present))))


def extrapolate(nodes: Sequence[tuple[float, torch.Tensor]], at: float) -> torch.Tensor:
    """Lagrange extrapolation: the polynomial through nodes (abscissa, tensor), distinct abscissae, evaluated `at`."""
    terms = [
        w * math.prod((at - other) / (place - other) for other, _ in nodes if other != place) for place, w in nodes
    ]
    return torch.stack(terms).sum(0)
