"""Linear classifiers on one frozen feature, many at once: a learning rate each, one matrix product for all.

Softmax cross-entropy and SGD with momentum, written out: the heads' weights are one matrix [H * C, D], so that logits
and gradients of all heads are one product each. A head reads and writes its own rows alone, so that one that diverges
leaves the others as they were.

Source: dino/eval_linear.py:103-109, 236-251 at 7c446df; many heads on one stream of images:
ibot/evaluation/eval_linear_multi.py:100-106 at da316d8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaltk.metrics.classification import rank_of_label
from evaltk.seeding import normal

MOMENTUM, WEIGHT_STD = 0.9, 0.01
LR_BATCH = 256  # images a step that a base learning rate is for; dino/eval_linear.py:105
# Float32 logits of 20 are told to 2e-6: losses below that, of heads that fit all images, are rounding and no more.
LOSSES_EQUAL = 1e-5
LOGITS = 1 << 24  # logits (images x heads x classes) that exist at a time in evaluation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearClassifiers:
    """H heads on one feature and the momentum of each; `step` and `deactivate` change the tensors in place.

    Attributes:
        weight, weight_momentum: [H, C, D]. bias, bias_momentum: [H, C].
    """

    weight: Tensor
    bias: Tensor
    weight_momentum: Tensor
    bias_momentum: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All there is to save."""
        return self.weight, self.bias, self.weight_momentum, self.bias_momentum


def begin(
    num_heads: int,
    num_classes: int,
    dim: int,
    *,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LinearClassifiers:
    """Heads before the first step: weights ~ N(0, 0.01^2), the same for every head; biases and momentum 0.

    One draw serves all, so that a head does not depend on which others are trained beside it.
    """
    drawn = normal(num_classes, dim, std=WEIGHT_STD, generator=generator).to(device, dtype)
    return LinearClassifiers(
        weight=drawn.expand(num_heads, -1, -1).clone(),
        bias=torch.zeros(num_heads, num_classes, device=device, dtype=dtype),
        weight_momentum=torch.zeros(num_heads, num_classes, dim, device=device, dtype=dtype),
        bias_momentum=torch.zeros(num_heads, num_classes, device=device, dtype=dtype),
    )


def rates(base: Sequence[float], batch: int, epoch: int, epochs: int) -> list[float]:
    """Learning rates in an epoch (0-based): base * batch / 256, cosine by epoch from that to 0, no warm-up.

    Source: dino/eval_linear.py:103-109.
    """
    share = (1 + math.cos(math.pi * epoch / epochs)) / 2
    return [lr * batch / LR_BATCH * share for lr in base]


@torch.no_grad()
def step(heads: LinearClassifiers, x: Tensor, y: Tensor, lr: Tensor) -> Tensor:
    """One step of SGD with momentum 0.9 on the mean cross-entropy of a batch. Returns: the losses before it [H].

    Args:
        x: features [B, D]. y: class ids [B] int64. lr: learning rates [H]. All of the heads' type and device.
    """
    num_heads, num_classes, dim = heads.weight.shape
    rows = heads.weight.view(-1, dim)
    logits = torch.addmm(heads.bias.view(-1), x, rows.t()).view(len(x), num_heads, num_classes)
    target = y.view(-1, 1, 1).expand(-1, num_heads, 1)
    scale = logits.logsumexp(dim=2, keepdim=True)
    losses = (scale - logits.gather(2, target)).mean(dim=(0, 2))
    # The gradient of the mean loss by the logits, (softmax - one-hot) / B, takes the place of the logits.
    gradient = logits.sub_(scale).exp_().scatter_add_(2, target, logits.new_full((1, 1, 1), -1.0).expand_as(target))
    gradient = gradient.div_(len(x)).view(len(x), -1)
    heads.weight_momentum.view(-1, dim).addmm_(gradient.t(), x, beta=MOMENTUM)
    heads.bias_momentum.mul_(MOMENTUM).add_(gradient.sum(dim=0).view(num_heads, num_classes))
    heads.weight.addcmul_(heads.weight_momentum, lr.view(-1, 1, 1), value=-1)
    heads.bias.addcmul_(heads.bias_momentum, lr.view(-1, 1), value=-1)
    return losses


def finite(heads: LinearClassifiers) -> Tensor:
    """Which heads still are numbers: bool [H]."""
    each = [torch.isfinite(t).flatten(1).all(dim=1) for t in heads.tensors()]
    return torch.stack(each).all(dim=0)


@torch.no_grad()
def deactivate(heads: LinearClassifiers, which: Tensor) -> None:
    """Set the heads that bool [H] names to 0, in place: with a learning rate of 0 they stay there."""
    for tensor in heads.tensors():
        tensor[which] = 0


def block_of(heads: LinearClassifiers) -> int:
    """Images at a time in evaluation."""
    return max(1, LOGITS // heads.bias.numel())


def _logits(heads: LinearClassifiers, x: np.ndarray | Tensor, block: int | None) -> Iterator[tuple[slice, Tensor]]:
    """Logits [n, H, C] of rows of x [N, D], a block of rows at a time."""
    num_heads, num_classes, dim = heads.weight.shape
    block = block or block_of(heads)
    for start in range(0, len(x), block):
        rows = slice(start, min(start + block, len(x)))
        part = torch.as_tensor(np.array(x[rows]) if isinstance(x, np.ndarray) else x[rows])
        part = part.to(heads.weight.device, heads.weight.dtype)
        out = torch.addmm(heads.bias.view(-1), part, heads.weight.view(-1, dim).t())
        yield rows, out.view(len(part), num_heads, num_classes)


@torch.no_grad()
def measure(
    heads: LinearClassifiers, x: np.ndarray | Tensor, y: Tensor, *, block: int | None = None
) -> tuple[Tensor, Tensor]:
    """(images that each head gets right [H] int64, mean cross-entropy [H] float64), on the CPU.

    Args:
        x: features [N, D]; y: class ids [N] int64. block: images at a time, None: by their logits' size.
    """
    device = heads.weight.device
    correct = torch.zeros(len(heads.weight), dtype=torch.int64, device=device)
    loss = torch.zeros(len(heads.weight), dtype=torch.float64, device=device)
    for rows, logits in _logits(heads, x, block):
        target = y[rows].to(device)
        own = logits.gather(2, target.view(-1, 1, 1).expand(-1, len(heads.weight), 1))[..., 0]
        correct += (logits.argmax(dim=2) == target[:, None]).sum(dim=0)
        loss += (logits.logsumexp(dim=2) - own).double().sum(dim=0)
    return correct.cpu(), (loss / max(1, len(x))).cpu()


@torch.no_grad()
def classify(
    heads: LinearClassifiers, which: int, x: np.ndarray | Tensor, y: Tensor, *, block: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(classes that head `which` puts before the true one [N] int64, its prediction [N] int64, the softmax probability
    of that [N] float32), on the CPU.

    The logits are those of `measure` to the bit: the images with rank 0 are those it counts. Arguments: as there.
    """
    ranks, predicted = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    confidence = [torch.zeros(0)]
    for rows, logits in _logits(heads, x, block):
        mine = logits[:, which]
        ranks.append(rank_of_label(mine, y[rows].to(mine.device)).cpu())
        predicted.append(mine.argmax(dim=1).cpu())
        confidence.append(mine.double().softmax(dim=1).amax(dim=1).float().cpu())
    return torch.cat(ranks), torch.cat(predicted), torch.cat(confidence)


def choose(correct: Sequence[float], loss: Sequence[float]) -> int:
    """Which of several heads is best: most images right, then the least loss, then the first.

    The loss parts heads that get equally many of a few images right; losses that differ by no more than
    `LOSSES_EQUAL` (of the loss, where that is above 1) are equal, for they differ by rounding as well.
    """
    most = max(correct)
    left = [i for i, right in enumerate(correct) if right == most]
    least = min(loss[i] for i in left)
    return next(i for i in left if loss[i] <= least + LOSSES_EQUAL * max(1.0, least))
