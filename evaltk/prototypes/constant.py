"""The part of log C_p in the winning score of a vMF mixture.

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Eq. 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from evaltk import precise
from evaltk.models.heads import Head
from evaltk.prototypes import mixture as mixtures
from evaltk.prototypes.components import Mixture
from evaltk.prototypes.mixture import BLOCK_ELEMENTS, Use, embed


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """How much log C_p(kappa) decides.

    Attributes:
        share: mean over images of |b - mean b| / (|b - mean b| + |z - mean z|), in [0, 1], with b = log C_p of the
            winning prototype, z its <w, y>/tau, and means over all prototypes.
        decides: share of images that another prototype would win without log C_p.
    """

    share: float
    decides: float


@torch.inference_mode()
def of_winners(head: Head, x: np.ndarray, mixture: Mixture, use: Use) -> Constant | None:
    """`Constant` over images x [N, D], whose `use` of the mixture is known; None where the scores have no log C_p."""
    if mixture.scoring != "vmf" or mixture.centred:
        return None
    bare = mixtures.mixture(head, scoring="linear", temperature=mixture.temperature)
    (without,) = mixtures.use(head, x, [bare])
    b = mixture.bias - mixture.bias.mean()
    total = 0.0
    for rows, y in embed(head, x, max(1, BLOCK_ELEMENTS // len(mixture.rows))):
        with precise.products(y.device):
            z = (y @ mixture.rows.T).double() / mixture.temperature
        won = torch.from_numpy(use.assigned[rows]).to(y.device)
        of_z = (z.gather(1, won[:, None])[:, 0] - z.mean(dim=1)).abs()
        of_b = b[won].abs()
        total += float((of_b / (of_b + of_z).clamp(min=1e-300)).sum())
    return Constant(share=total / len(x), decides=float((use.assigned != without.assigned).mean()))
