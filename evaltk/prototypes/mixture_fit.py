"""Components compared with their assigned images: direction, spread, and the nearest images of a component."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from evaltk import fixed_order, vmf
from evaltk.models import heads
from evaltk.models.heads import Head
from evaltk.prototypes.mixture import Mixture, embed

IMAGES = 8_192  # embedded at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Statistics of each component's images; NaN where it has none.

    Attributes:
        counts: [K] int64. cosine: [K], of w_k with the mean of its y.
        resultant: [K], length R of the mean of its y, in [0, 1]; 1 for a single image.
        spread: [K], R corrected for its bias with few images: sqrt((n R^2 - 1)/(n - 1)), 0 where that is negative, NaN
            for n < 2. Its square is an unbiased estimate of the squared length of the true mean.
        expected: [K], A_p(kappa_k): the value of `spread` under the component's own kappa.
        data_mean: [p], mean of y over all images.
    """

    counts: np.ndarray
    cosine: np.ndarray
    resultant: np.ndarray
    spread: np.ndarray
    expected: np.ndarray
    data_mean: np.ndarray


@torch.inference_mode()
def fit(head: Head, x: np.ndarray, assigned: np.ndarray, mixture: Mixture) -> Fit:
    """`Fit` for images x [N, D] and their components assigned [N]; sums are float64."""
    num, dim = head.prototypes.shape
    sums = torch.zeros(num, dim, dtype=torch.float64, device=head.prototypes.device)
    for rows, y in embed(head, x, IMAGES):
        sums.index_add_(0, torch.from_numpy(assigned[rows]).to(y.device), y.double())
    counts = np.bincount(assigned, minlength=num)
    lengths = torch.linalg.vector_norm(sums, dim=1)
    along = torch.empty_like(lengths)
    for start in range(0, num, IMAGES):  # no float64 copy of all prototypes
        part = slice(start, start + IMAGES)
        along[part] = (sums[part] * torch.nn.functional.normalize(mixture.rows[part].double(), dim=1)).sum(dim=1)
    expected = vmf.mean_resultant_length(mixture.kappa, dim, terms=3)
    used, many = counts > 0, counts > 1
    n = np.maximum(counts, 2).astype(np.float64)
    r = np.where(used, lengths.cpu().numpy() / np.maximum(counts, 1), np.nan)
    square = np.maximum(0.0, (n * np.where(many, r, 1.0) ** 2 - 1) / (n - 1))
    cosine = np.where(used, along.cpu().numpy() / np.maximum(lengths.cpu().numpy(), 1e-300), np.nan)
    return Fit(
        counts=counts,
        cosine=cosine,
        resultant=r,
        spread=np.where(many, np.sqrt(square), np.nan),
        expected=expected.cpu().numpy(),
        data_mean=(sums.sum(dim=0) / len(x)).cpu().numpy(),
    )


@torch.inference_mode()
def nearest_images(head: Head, x: np.ndarray, components: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(cosine, index) [G, count] of the images x [N, D] nearest to each component [G], nearest first.

    Cosines of y and w are float64 in a fixed order of summation; ties are sorted by index.
    """
    unit = heads.unit(head.prototypes[torch.from_numpy(components).to(head.prototypes.device)])
    best = torch.empty(len(components), 0, dtype=torch.float64, device=unit.device)
    index = torch.empty(len(components), 0, dtype=torch.int64, device=unit.device)
    for rows, y in embed(head, x, IMAGES):
        cosine = torch.stack([fixed_order.dot(y, of) for of in unit])  # [G, b]
        places = torch.arange(rows.start, rows.stop, device=unit.device).expand(len(components), -1)
        best, at = torch.cat([best, cosine], dim=1).sort(dim=1, descending=True, stable=True)
        index = torch.cat([index, places], dim=1).gather(1, at[:, :count])
        best = best[:, :count]
    return best.float().cpu().numpy(), index.cpu().numpy()


def projection(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coordinates [K, 2], explained variance ratio [2]) of unit prototypes [K, p] on two principal components.

    The largest loading of each component is positive (the first one among loadings equal up to rounding), so that
    figures are not flipped at random.
    """
    mean = unit.mean(axis=0, dtype=np.float64)
    gram = unit.T.astype(np.float64) @ unit / len(unit) - np.outer(mean, mean)  # float64 would double the matrix
    values, vectors = np.linalg.eigh(gram)
    axes = vectors[:, ::-1][:, :2]
    large = np.abs(axes) >= (1 - 1e-6) * np.abs(axes).max(axis=0)  # eigenvectors are far more precise than that
    axes = axes * np.sign(axes[large.argmax(axis=0), [0, 1]])
    total = max(float(values.clip(0).sum()), np.finfo(np.float64).tiny)
    return (unit @ axes - mean @ axes).astype(np.float32), values[::-1][:2].clip(0) / total
