"""Pretrain DINO, DINO-vMF, iBOT, iBOT-vMF or MSN from a recipe.

Examples:
    evaltk pretrain digits_dino_vmf --data digits
    evaltk pretrain dino_vmf_vits16 --data imagenet=/data/imagenet --out /runs/vmf_s16
    evaltk pretrain mine.toml --set optim.epochs=50 method.scoring=cosine
"""

from __future__ import annotations

from evaltk.cli import _options

GROUPS = {"Options": "options", "Watching": "watching the run", "DataFlags": "your own images"}


def main(argv: list[str]) -> int:
    """Hand over to `python -m pretrain`, which is the same command with another help."""
    from pretrain import __main__ as pretrain

    if any(word in _options.HELP for word in argv):
        _options.show(_options.usage(pretrain.Options, "pretrain", __doc__, groups=GROUPS))
    return pretrain.main(argv)
