"""Files of families, loaded or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import (
    FLAT,
    save,
)

import evaltk
from evaltk.errors import CheckpointError
from evaltk.types import Checkpoint

STATS: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


CLASS_HEAD = {"head.weight": torch.ones(10, 24), "head.bias": torch.zeros(10)}


def load(tree: object, tmp_path: Path, **said: Any) -> Checkpoint:
    return evaltk.load_checkpoint(save(tree, tmp_path / "net.pth"), **(FLAT | said))


def refused(tree: object, tmp_path: Path, *words: str, kind: type = CheckpointError, **said: Any) -> str:
    with pytest.raises(kind) as caught:
        load(tree, tmp_path, **said)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)
