"""Which component of a mixture an image falls to: the same on every processor, and of equal components the first."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from evaltk import fixed_order

if TYPE_CHECKING:
    from evaltk.prototypes.components import Mixture

PAIRS = 8_192  # of images and components compared anew at a time, and prototypes widened to float64
MANY = 64  # open components an image, on average, from which on all of them are compared by one product first


def squares(rows: torch.Tensor) -> torch.Tensor:
    """Squared lengths [K] float64 of rows [K, p]."""
    return torch.cat([fixed_order.dot(some, some) for some in rows.split(PAIRS)])


def first_of(rows: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Whether each component [K] is the first of its weights [K, p] and bias [K], to the bit."""
    seen: set[bytes] = set()
    found = torch.empty(len(rows), dtype=torch.bool)
    for at, (row, b) in enumerate(zip(rows.cpu().numpy(), bias.cpu().numpy(), strict=True)):
        name = hashlib.blake2b(row.tobytes() + b.tobytes(), digest_size=16).digest()
        found[at] = name not in seen
        seen.add(name)
    return found.to(rows.device)


def margin(mixture: Mixture) -> float:
    """How far a float32 score of a unit y lies from the one in float64, at most.

    The product is off by gamma_p = p u / (1 - p u) of ||w|| ||y|| (u = 2^-24; Higham, Accuracy and Stability of
    Numerical Algorithms, 2002, section 3.1), which makes gamma_p kappa of the score; rounding 1/tau, the bias and their
    sum adds three more u of kappa + |b|, and the length of y, which is 1 but for rounding, less than another.
    """
    n = (mixture.rows.shape[1] + 8) * 2.0**-24
    return n / (1 - n) * float(mixture.kappa.max() + mixture.bias.abs().max())


def _exact(mixture: Mixture, y: torch.Tensor, image: torch.Tensor, component: torch.Tensor) -> torch.Tensor:
    """Scores [n] float64 of the pairs (y[image[n]], component[n]), the same on every processor."""
    found = []
    for i, k in zip(image.split(PAIRS), component.split(PAIRS), strict=True):
        found.append(fixed_order.dot(y[i], mixture.rows[k]) / mixture.temperature + mixture.bias[k])
    return torch.cat(found)


def assign(mixture: Mixture, y: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The component [b] int64 of the highest score of unit y [b, p], whose float32 scores [b, K] are known.

    Components within rounding of the best are compared anew in float64 and a fixed order; of equal ones the first is
    taken. Copies of a component before are passed over, so that a head that has collapsed costs no more.
    """
    best, assigned = scores.max(dim=1)
    near = scores >= (best - 2 * margin(mixture))[:, None]
    open_rows = (near.sum(dim=1) > 1).nonzero().flatten()
    if not len(open_rows):
        return assigned
    y, near = y[open_rows], near[open_rows] & mixture.first
    if int(near.sum()) > MANY * len(y):  # near-copies by the thousand: a product in float64 leaves few of them open
        wide = mixture.scores(y.double()).masked_fill_(~near, -torch.inf)
        near &= wide >= wide.amax(dim=1, keepdim=True) - 2 * margin(mixture) * 2.0**-29  # float64's u over float32's
    image, component = near.nonzero().unbind(1)  # by image, components rising
    exact = _exact(mixture, y, image, component)
    highest = torch.full((len(open_rows),), -torch.inf, dtype=torch.float64, device=y.device)
    highest.scatter_reduce_(0, image, exact, "amax")
    winners = torch.where(exact == highest[image], component, len(mixture.rows))
    assigned[open_rows] = assigned.new_full((len(open_rows),), len(mixture.rows)).scatter_reduce_(
        0, image, winners, "amin"
    )
    return assigned
