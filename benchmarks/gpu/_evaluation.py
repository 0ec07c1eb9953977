"""Extraction, nearest neighbours, video segmentation and fine-tuning on a card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.gpu._card import Clock, Limits, operations
from evaltk import build_backbone, load_checkpoint, neighbours
from evaltk.data import transforms
from evaltk.features import extraction
from evaltk.sending import Sender
from evaltk.types import Precision, Recipe

NETS = {"S/16": "vit_small_patch16_224", "B/16": "vit_base_patch16_224", "L/14": "vit_large_patch14_224"}
QUICK = "vit_patch16_dim32_depth2_heads2_img32"


def extract(name: str, precision: Precision, clock: Clock, limits: Limits) -> dict[str, Any]:
    """Images a second from uint8 pixels on the host to features on the host."""
    checkpoint = load_checkpoint(f"random:{QUICK if clock.quick else NETS[name]}")
    net = build_backbone(checkpoint, device=str(clock.device), precision=precision)
    side = checkpoint.arch.img_size
    batch = 2 if clock.quick else 256
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    view = transforms.view("eval", side, checkpoint.mean, checkpoint.std)
    sender, waiting = Sender(clock.device), []
    clock.forget_peak()

    def work() -> None:
        waiting.append(extraction.back(extraction.forward(net, view, pixels, (Recipe(),), sender)))
        if len(waiting) > 1:
            waiting.pop(0)()

    seconds = clock.seconds(work, least=2.0)
    x = torch.zeros(1, 3, side, side, device=clock.device)
    each = operations(lambda: net.features(x, (Recipe(),)))
    rate = limits.bf16 if precision == "bf16" else limits.fp32
    return {
        "images_per_second": batch / seconds,
        f"share_of_{precision}": each * batch / seconds / rate,
        "peak_gigabytes": clock.peak(),
    }


def search(clock: Clock, limits: Limits) -> dict[str, Any]:
    """20 nearest of 1,281,167 for 50,000 queries of 384 dimensions, against the bare bf16 product."""
    queries, bank = (200, 2_000) if clock.quick else (50_000, 1_281_167)
    draw = torch.Generator(device=clock.device).manual_seed(0)
    q, b = (torch.randn(n, 384, device=clock.device, generator=draw) for n in (queries, bank))
    seconds = clock.seconds(
        lambda: neighbours.search(q, b, 20, device=str(clock.device)), least=0.0, warm=0 if clock.card else 1
    )
    low, block = b.bfloat16(), max(1, bank // 40)
    small = q[:2048].bfloat16()

    def bare() -> None:
        for start in range(0, bank, block):
            _ = small @ low[start : start + block].T

    product = clock.seconds(bare) * queries / len(small)
    found = {"seconds": seconds, "bare_bf16_product_seconds": product, "times_the_bare_product": seconds / product}
    return found | {"share_of_bf16": 2 * queries * bank * 384 / seconds / limits.bf16}


def video(patch: int, clock: Clock) -> dict[str, Any]:
    """Seconds a frame of label propagation at 480 pixels."""
    from protocols import vos

    name = "vit_patch16_dim32_depth2_heads2_img32" if clock.quick else f"vit_small_patch{patch}_224"
    net = build_backbone(load_checkpoint(f"random:{name}"), device=str(clock.device))
    count, size = (3, (64, 64)) if clock.quick else (12, (480, 854))
    numbers = np.random.default_rng(0)
    frames = [Image.fromarray(numbers.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(count)]
    mask = np.zeros(size, dtype=np.uint8)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1
    settings = vos.Settings(size=64 if clock.quick else 480)
    seconds = clock.seconds(lambda: vos.propagate(net, frames, mask, settings), least=0.0, warm=1)
    return {"seconds_per_frame": seconds / count}


def finetune(clock: Clock, limits: Limits) -> dict[str, Any]:
    """Images a second of steps of fine-tuning ViT-B/16, without decoding and mixing."""
    from protocols.finetune import recipe

    checkpoint = load_checkpoint(f"random:{QUICK if clock.quick else NETS['B/16']}")
    tuning = recipe.preset("imagenet", checkpoint.arch)
    model = recipe.build(checkpoint.arch, checkpoint.weights, 1000, tuning, position=checkpoint.position, seed=0).to(
        clock.device
    )
    optimizer = torch.optim.AdamW(recipe.parameter_groups(model, tuning), lr=1e-4)
    batch, side = (2, checkpoint.arch.img_size) if clock.quick else (128, checkpoint.arch.img_size)
    x = torch.randn(batch, 3, side, side, device=clock.device)
    y = torch.zeros(batch, dtype=torch.int64, device=clock.device)
    clock.forget_peak()

    def work() -> None:
        with torch.autocast(clock.device.type, dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x).float(), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = clock.seconds(work, least=2.0)
    return {"images_per_second": batch / seconds, "peak_gigabytes": clock.peak()}


def cases(clock: Clock, limits: Limits) -> Iterator[tuple[str, Any]]:
    """(name, what measures it), the most wanted first."""
    for name, precision in (("B/16", "bf16"), ("S/16", "bf16"), ("L/14", "bf16"), ("B/16", "fp32"), ("S/16", "fp32"),
                            ("L/14", "fp32")):  # fmt: skip
        yield f"extract {name} {precision}", lambda n=name, p=precision: extract(n, p, clock, limits)
    yield "k-NN 50,000 x 1,281,167 x 384", lambda: search(clock, limits)
    for patch in (16, 8):
        yield f"video S/{patch}", lambda patch=patch: video(patch, clock)
    yield "fine-tune B/16", lambda: finetune(clock, limits)
