"""torch.compile of the blocks: residuals, norms, GELU and casts become few kernels; tried out before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evaltk.models.vit import ViT
from evaltk.progress import log
from pretrain import card

VARIANTS = 16  # of a block: sizes of views, student and teacher, with and without gradients


def compile_blocks(backbones: Sequence[ViT], precision: str, **options: Any) -> bool:
    """Compile the blocks of nets of one architecture. Returns: whether it works; if not, they run uncompiled.

    Args: options: for torch.compile, such as backend.
    """
    blocks = [block for backbone in backbones for block in backbone.blocks]
    _allow(VARIANTS * len(blocks))
    for block in blocks:
        block.compile(**options)
    try:
        _try(blocks[0], backbones[0].arch.embed_dim, precision)
    except Exception as error:  # noqa: BLE001 (compilers fail in any way: no C compiler, an old driver, a full disk)
        for block in blocks:
            block._compiled_call_impl = None
        said = " ".join(str(error).split())[:120]
        log.warning("torch.compile does not work here, blocks run uncompiled: %s: %s", type(error).__name__, said)
        return False
    return True


def _allow(variants: int) -> None:
    """Blocks share their code but not their drop path rate, which is compiled in; torch stops compiling after eight."""
    import torch._dynamo

    settings = torch._dynamo.config
    for name in ("recompile_limit", "accumulated_recompile_limit", "cache_size_limit", "accumulated_cache_size_limit"):
        if hasattr(settings, name):
            setattr(settings, name, max(getattr(settings, name), variants))


def _try(block: torch.nn.Module, width: int, precision: str) -> None:
    """One pass forward and backward; no gradient stays."""
    device = next(block.parameters()).device
    x = torch.zeros(2, 5, width, device=device, requires_grad=True)
    for class_only in (False, True):
        with card.autocast(device, precision):
            y = block(x, class_only=class_only)
        torch.autograd.grad(y.float().sum(), [x])
