"""Attention maps, CKA, two-NN and mIoU: each against a plain version from the formula, on one thread.

Maps of the class token need one row of the attention of one block; the plain version keeps all rows of all blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from evaltk.checkpoints.load import load_checkpoint
from evaltk.metrics import geometry, iou
from evaltk.models import attention
from evaltk.models.backbone import Backbone, build_backbone

REPEATS = 3


def best(run: Callable[[], object]) -> float:
    """CPU seconds of the fastest of a few runs, least affected by other load."""
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


def plain_attention(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """[B, heads, h, w] of the last block, the weights of every block written out in full."""
    net = backbone.net
    with torch.no_grad():
        x = net.embed(images)  # type: ignore[operator]
        for block in net.blocks:  # type: ignore[union-attr]
            y, layer = block.norm1(x), block.attn  # type: ignore[union-attr]
            q, k, v = layer.qkv(y).unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)  # type: ignore[union-attr]
            weights = (q * layer.head_dim**-0.5 @ k.transpose(-1, -2)).softmax(-1)  # type: ignore[union-attr]
            x = x + layer.proj((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[union-attr]
            x = x + block.mlp(block.norm2(x))  # type: ignore[union-attr]
    side = images.shape[-1] // backbone.arch.patch_size
    return weights[:, :, 0, 1:].unflatten(-1, (side, side))


def plain_cka(a: np.ndarray, b: np.ndarray) -> float:
    """By centred Gram matrices [N, N]."""
    h = np.eye(len(a)) - 1 / len(a)
    k, m = h @ (a @ a.T) @ h, h @ (b @ b.T) @ h
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def plain_two_nn(x: np.ndarray) -> float:
    """By scikit-learn's exact neighbours."""
    distance = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(x).kneighbors(x)[0]
    ratio = np.sort(np.log(distance[:, 2] / distance[:, 1]))
    kept = int(0.9 * len(x))
    height = -np.log1p(-np.arange(1, kept + 1) / len(x))
    return float(ratio[:kept] @ height / (ratio[:kept] @ ratio[:kept]))


def plain_iou(target: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Class by class, as sets of pixels."""
    known, values = target != iou.VOID, []
    for c in range(classes):
        a, b = (target == c) & known, (predicted == c) & known
        values.append((a & b).sum() / (a | b).sum())
    return float(np.mean(values))


def show(what: str, ours: Callable[[], float], plain: Callable[[], float]) -> None:
    """Print both times, their ratio and the difference of the values."""
    quick, slow, gap = best(ours), best(plain), abs(ours() - plain())
    times = f"plain {1e3 * slow:.0f} ms, ours {1e3 * quick:.0f} ms, ratio {slow / quick:.1f}x"
    print(f"{what}: {times}, differing by {gap:.0e}")


def main() -> None:
    """Print a line for each."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    backbone = build_backbone(load_checkpoint("random:vit_tiny_patch16_224"))
    images = torch.randn(1, 3, 480, 480, generator=torch.Generator().manual_seed(0))
    show(
        "attention of the class token, ViT-Ti/16 at 480 px",
        lambda: float(attention.class_attention(backbone, images).sum()),
        lambda: float(plain_attention(backbone, images).sum()),
    )
    a, b = rng.normal(size=(3000, 192)), rng.normal(size=(3000, 384))
    show("CKA of 3,000 images", lambda: geometry.linear_cka(a, b), lambda: plain_cka(a, b))
    show("two-NN of 3,000 images", lambda: geometry.two_nn(a)[0], lambda: plain_two_nn(a))
    target = rng.integers(0, 150, (512, 683)).astype(np.uint8)
    predicted = np.where(rng.random(target.shape) < 0.5, target, rng.integers(0, 150, target.shape))
    show(
        "mIoU of 150 classes, an image of 683 x 512",
        lambda: iou.overlap(iou.confusion(target, predicted, 150)).miou,
        lambda: plain_iou(target, predicted, 150),
    )


if __name__ == "__main__":
    main()
