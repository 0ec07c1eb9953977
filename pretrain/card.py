"""What a device can do that others cannot, decided in one place."""

from __future__ import annotations

import torch

from evaltk.errors import SettingsError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def is_card(device: torch.device) -> bool:
    """Whether it is a GPU of CUDA's, which has fused optimizers, float16 products and compiled blocks."""
    return device.type == "cuda"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bf16 or fp16; fp32: none."""
    dtype = DTYPES.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def check_precision(device: torch.device, precision: str) -> None:
    """Raises: SettingsError: bf16 on a card that is too old to have it (before Ampere)."""
    if is_card(device) and precision == "bf16" and torch.cuda.get_device_capability(device) < (8, 0):
        raise SettingsError(
            wanted="a card with bfloat16 (compute capability 8.0 or higher)",
            got=f"{torch.cuda.get_device_name(device)}, {'.'.join(map(str, torch.cuda.get_device_capability(device)))}",
            where="run.precision",
            do="--set run.precision=fp16 (losses are scaled), or fp32",
        )
