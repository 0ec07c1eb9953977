"""evaltk: evaluate and analyse pretrained vision checkpoints; reproduces the papers' reference numbers.

The public names below are loaded on first use, so that `import evaltk` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaltk.api.evaluate import evaluate
    from evaltk.api.extract import extract
    from evaltk.api.results import load_results
    from evaltk.checkpoints.load import load_checkpoint
    from evaltk.errors import EvaltkError
    from evaltk.models.backbone import build_backbone, build_head

__version__ = "0.1.0"

_LAZY = {
    "load_checkpoint": "evaltk.checkpoints.load",
    "build_backbone": "evaltk.models.backbone",
    "build_head": "evaltk.models.backbone",
    "evaluate": "evaltk.api.evaluate",
    "extract": "evaltk.api.extract",
    "load_results": "evaltk.api.results",
    "EvaltkError": "evaltk.errors",
}
_MODULES = ("vmf", "neighbours", "logistic", "metrics", "results")
__all__ = ["EvaltkError", "build_backbone", "build_head", "evaluate", "extract", "load_checkpoint", "load_results"]


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__, *_MODULES})


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"evaltk.{name}")
    raise AttributeError(f"module 'evaltk' has no attribute {name!r}")
