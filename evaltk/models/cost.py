"""What a forward pass of a net costs: operations counted on tensors without values, and images a second, measured."""

from __future__ import annotations

import time

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evaltk.models.backbone import Backbone

SECONDS = 2.0  # of measuring, at least; one batch may take longer
BATCHES = 3  # measured at least


def flops(backbone: Backbone, size: int) -> int:
    """Floating-point operations of one image's features: two per multiply-add of products and convolutions.

    Norms, activations and other elementwise operations do not count, as in torch's `FlopCounterMode` (and fvcore, whose
    counts are of multiply-adds: half of these).

    Args:
        size: both sides of the image in pixels.

    Raises: SettingsError: images of this size do not fit the net.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # Fused attention has an operator per device, which some versions of torch do not count.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), fake:
        backbone.tokens(torch.empty(1, 3, size, size, device=backbone.device))
    return int(counter.get_total_flops())


@torch.no_grad()
def images_per_second(backbone: Backbone, size: int, batch: int) -> float:
    """The rate of forward passes of `batch` images that are on the device already; the median of several batches."""
    images = torch.zeros(batch, 3, size, size, device=backbone.device)
    seconds: list[float] = []
    _once(backbone, images)  # also pays for what is made at first use
    while len(seconds) < BATCHES or sum(seconds) < SECONDS:
        seconds.append(_once(backbone, images))
    return batch / sorted(seconds)[len(seconds) // 2]


def _once(backbone: Backbone, images: torch.Tensor) -> float:
    started = time.perf_counter()
    (tokens,) = backbone.tokens(images)
    tokens.cls.sum().item()  # waits for the device
    return time.perf_counter() - started
