"""What a device can do that others cannot, decided in one place."""

from __future__ import annotations

import torch


def is_card(device: torch.device) -> bool:
    """Whether it is a GPU of CUDA's, which has fused optimizers, float16 products and compiled blocks."""
    return device.type == "cuda"
