"""Linear classification on frozen features, Lin.[C] and Lin.[D]."""

from protocols.linear.protocol import (
    KIND,
    TITLE,
    VERSION,
    check,
    extracts,
    identity,
    needs,
    prepare,
    run,
)
from protocols.linear.settings import LRS, PAPER_EPOCHS, Settings, dino_rule

__all__ = [
    "KIND",
    "LRS",
    "PAPER_EPOCHS",
    "TITLE",
    "VERSION",
    "Settings",
    "check",
    "dino_rule",
    "extracts",
    "identity",
    "needs",
    "prepare",
    "run",
]
