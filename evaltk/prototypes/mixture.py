"""Prototypes as a vMF mixture on the sphere: assignment of images to prototypes, and likelihood of images.

The score of component k is that of the method (its softmax gives the responsibilities), after division by tau:

    linear   <w_k, y>/tau                     DINO, iBOT; cosine: the same with unit w_k, as in MSN
    vmf      <w_k, y>/tau + log C_p(kappa_k)  kappa_k = ||w_k||/tau

optionally minus the teacher's centre: c_k/tau if it is a centre of logits before division (linear, Eq. 8), else c_k.
With b_k the score minus <w_k, y>/tau, these are responsibilities of the mixture with weights pi_k ~ exp(b_k - log C_p):
equal weights for vmf without centre, weights that cancel C_p for linear. The log-likelihood is of this mixture.

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), Eq. 2 to 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evaltk import neighbours, precise, vmf
from evaltk.errors import DataError, SettingsError
from evaltk.models.heads import Head, unit
from evaltk.prototypes.assignment import assign, first_of, squares
from evaltk.prototypes.components import Mixture, Scoring

BLOCK_ELEMENTS = 2**24  # scores in memory at a time: 64 MiB of float32, and the same for their exponentials


def mixture(
    head: Head, *, scoring: Scoring, temperature: float, centred: bool = False, centering: str | None = None
) -> Mixture:
    """The mixture of a head.

    Args:
        temperature: tau > 0. centred: subtract the head's centre.
        centering: ``logit`` or ``probability``, the space of the centre; None: logit, but probability for vmf.

    Raises: SettingsError: a temperature <= 0. DataError: fewer than 3 dimensions, no centre in the file.
    """
    if not temperature > 0:
        raise SettingsError(wanted="a temperature > 0", got=str(temperature), where="temperature", do="use 0.07")
    rows = head.prototypes
    if rows.shape[1] < 3:
        do = "use a head with a wider bottleneck"
        raise DataError(wanted="prototypes of 3 dimensions or more", got=str(rows.shape[1]), do=do)
    if scoring == "cosine":
        rows = unit(rows)
    # Evaluate each distinct value once: vector libraries may round equal values differently by position.
    kappa, of = (squares(rows).sqrt() / temperature).unique(return_inverse=True)
    log_c = vmf.log_normalizer(kappa, rows.shape[1])
    bias = torch.zeros_like(kappa)
    if scoring == "vmf":
        bias = vmf.log_normalizer_shifted(kappa, rows.shape[1])
    kappa, log_c, bias = kappa[of], log_c[of], bias[of]
    if centred:
        if head.center is None:
            raise DataError(wanted="the training centre", got="a file without one", do="turn the centre setting off")
        late = scoring != "vmf" and centering != "probability"  # Eq. 8 centres logits before division by tau
        bias = bias - head.center.to(bias) / (temperature if late else 1.0)
    return Mixture(
        rows=rows,
        temperature=temperature,
        bias=bias,
        kappa=kappa,
        first=first_of(rows, bias),
        offset=-float(torch.logsumexp(bias - log_c, dim=0)),
        scoring=scoring,
        centred=centred,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How N images use a mixture of K components.

    Attributes:
        assigned: [N] int64, the component with the highest score, in float64 of the float32 y and w; ties (e.g. equal
            prototypes) go to the first.
        responsibility: [K] float64, mean over the images; sums to 1.
        log_likelihood: [N] float64, nats with respect to the surface measure of the sphere.
        entropy: mean over images of the entropy of their responsibilities, nats.
    """

    assigned: np.ndarray
    responsibility: np.ndarray
    log_likelihood: np.ndarray
    entropy: float

    def counts(self) -> np.ndarray:
        """Number of images assigned to each component [K] int64."""
        return np.bincount(self.assigned, minlength=len(self.responsibility))


def embed(head: Head, x: np.ndarray, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Blocks of (rows, unit y [b, p]) for class-token features x [N, D], which may be memory-mapped."""
    device = head.prototypes.device
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        yield rows, head.embed(neighbours.rows(x, rows.start, rows.stop).to(device))


@torch.inference_mode()
def use(head: Head, x: np.ndarray, mixtures: Sequence[Mixture], *, block: int = BLOCK_ELEMENTS) -> list[Use]:
    """`Use` for each of several mixtures of one head, which differ in temperature, normaliser and centre.

    The products <w, y> are shared; at most `block` scores are in memory at a time.

    Args: x: [N, D] class-token features after the final norm.
    Raises: DataError: no images.
    """
    if not len(x):
        raise DataError(wanted="images", got="none", where="features", do="use a dataset with images")
    parts = [_Part(len(x), m) for m in mixtures]
    for rows, y in embed(head, x, max(1, block // len(head.prototypes))):
        with precise.products(y.device):
            products = y @ mixtures[0].rows.T
        for part in parts:
            part.add(rows, y, products)
    return [part.use() for part in parts]


class _Part:
    """Accumulates the sums of one mixture over images."""

    def __init__(self, num_images: int, mixture: Mixture) -> None:
        self.mixture = mixture
        self.assigned = np.empty(num_images, dtype=np.int64)
        self.log_likelihood = np.empty(num_images, dtype=np.float64)
        self.responsibility = torch.zeros_like(mixture.bias)
        self.entropy = 0.0

    def add(self, rows: slice, y: torch.Tensor, products: torch.Tensor) -> None:
        scores = self.mixture.from_products(products)  # [b, K]
        assigned = assign(self.mixture, y, scores)
        best = scores.amax(dim=1)
        scores -= best[:, None]
        weights = scores.exp()
        total = weights.sum(dim=1)
        self.assigned[rows] = assigned.cpu().numpy()
        self.log_likelihood[rows] = (best.double() + total.double().log()).cpu().numpy() + self.mixture.offset
        self.responsibility += (total.reciprocal() @ weights).double()
        # H = log Z - E[score], both minus the best score.
        expected = weights.mul_(scores).sum(dim=1) / total
        self.entropy += float((total.log() - expected).double().sum())

    def use(self) -> Use:
        n = len(self.assigned)
        return Use(
            assigned=self.assigned,
            responsibility=(self.responsibility / n).cpu().numpy(),
            log_likelihood=self.log_likelihood,
            entropy=self.entropy / n,
        )
