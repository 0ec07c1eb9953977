"""The components of a mixture and how they are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

Scoring = Literal["linear", "cosine", "vmf"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Components and how they are scored.

    Attributes:
        rows: w [K, p] float32 (unit rows for cosine). temperature: tau.
        bias: b [K] float64, added to <w, y>/tau. kappa: [K] float64, ||w||/tau.
        first: [K] bool, false for exact copies of an earlier component, which have the same scores.
        offset: log p(y) = logsumexp_k(score_k) + offset, in nats.
        scoring, centred: the arguments of `evaltk.prototypes.mixture.mixture`.
    """

    rows: torch.Tensor
    temperature: float
    bias: torch.Tensor
    kappa: torch.Tensor
    first: torch.Tensor
    offset: float
    scoring: Scoring
    centred: bool

    def scores(self, y: torch.Tensor) -> torch.Tensor:
        """[B, K] float32 (float64 for y float64) of unit y [B, p]."""
        return self.from_products(y @ self.rows.to(y.dtype).T)

    def from_products(self, products: torch.Tensor) -> torch.Tensor:
        """Scores from products <w, y> [B, K]."""
        return torch.add(self.bias.to(products), products, alpha=1.0 / self.temperature)

    def at(self) -> dict[str, object]:
        """The `at` of its scores."""
        return {
            "formulation": self.scoring,
            "temperature": self.temperature,
            "centre": "with" if self.centred else "without",
        }
