"""Pretrain DINO, DINO-vMF, iBOT, iBOT-vMF or MSN from a recipe (`torchrun -m pretrain` for several GPUs).

Examples:
    evaltk pretrain digits_dino_vmf --data digits
    evaltk pretrain dino_vmf_vits16 --data imagenet=/data/imagenet --out /runs/vmf_s16
    evaltk pretrain mine.toml --set optim.epochs=50 method.scoring=cosine
"""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """The same command as `python -m pretrain`."""
    from pretrain.__main__ import main as pretrain

    return pretrain(argv)
