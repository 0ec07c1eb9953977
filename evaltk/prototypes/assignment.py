"""Assignment of images to mixture components; the same on every processor, ties go to the first component."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from evaltk import fixed_order

if TYPE_CHECKING:
    from evaltk.prototypes.components import Mixture

PAIRS = 8_192  # (image, component) pairs recomputed at a time, and prototypes converted to float64 at a time
MANY = 64  # mean number of undecided components per image above which a float64 product is tried first


def squares(rows: torch.Tensor) -> torch.Tensor:
    """Squared norms [K] float64 of rows [K, p]."""
    return torch.cat([fixed_order.dot(part, part) for part in rows.split(PAIRS)])


def first_of(rows: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Whether each component [K] is the first with its weights [K, p] and bias [K], compared bitwise."""
    seen: set[bytes] = set()
    first = torch.empty(len(rows), dtype=torch.bool)
    for at, (row, b) in enumerate(zip(rows.cpu().numpy(), bias.cpu().numpy(), strict=True)):
        digest = hashlib.blake2b(row.tobytes() + b.tobytes(), digest_size=16).digest()
        first[at] = digest not in seen
        seen.add(digest)
    return first.to(rows.device)


def margin(mixture: Mixture) -> float:
    """Bound on the difference between a float32 score of a unit y and the one in float64.

    The product is off by at most gamma_p ||w|| ||y||, gamma_p = p u / (1 - p u), u = 2^-24, hence the score by gamma_p
    kappa. Rounding of 1/tau, the bias and their sum adds three more u of kappa + |b|, the rounded norm of y less than
    one more.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.
    """
    n = (mixture.rows.shape[1] + 8) * 2.0**-24
    return n / (1 - n) * float(mixture.kappa.max() + mixture.bias.abs().max())


def _exact(mixture: Mixture, y: torch.Tensor, image: torch.Tensor, component: torch.Tensor) -> torch.Tensor:
    """Scores [n] float64 of the pairs (y[image[n]], component[n]), the same on every processor."""
    scores = []
    for i, k in zip(image.split(PAIRS), component.split(PAIRS), strict=True):
        scores.append(fixed_order.dot(y[i], mixture.rows[k]) / mixture.temperature + mixture.bias[k])
    return torch.cat(scores)


def assign(mixture: Mixture, y: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The highest-scoring component [b] int64 of unit y [b, p] with float32 scores [b, K].

    Components within rounding of the best are recomputed in float64 in a fixed order; ties go to the first. Copies
    of an earlier component are skipped, so that a collapsed head costs no more.
    """
    best, assigned = scores.max(dim=1)
    near = scores >= (best - 2 * margin(mixture))[:, None]
    open_rows = (near.sum(dim=1) > 1).nonzero().flatten()
    if not len(open_rows):
        return assigned
    y, near = y[open_rows], near[open_rows] & mixture.first
    if int(near.sum()) > MANY * len(y):  # thousands of duplicates: a float64 product leaves few of them undecided
        wide = mixture.scores(y.double()).masked_fill_(~near, -torch.inf)
        near &= wide >= wide.amax(dim=1, keepdim=True) - 2 * margin(mixture) * 2.0**-29  # float64's u over float32's
    image, component = near.nonzero().unbind(1)  # sorted by image, then component
    exact = _exact(mixture, y, image, component)
    highest = torch.full((len(open_rows),), -torch.inf, dtype=torch.float64, device=y.device)
    highest.scatter_reduce_(0, image, exact, "amax")
    winners = torch.where(exact == highest[image], component, len(mixture.rows))
    assigned[open_rows] = assigned.new_full((len(open_rows),), len(mixture.rows)).scatter_reduce_(
        0, image, winners, "amin"
    )
    return assigned
