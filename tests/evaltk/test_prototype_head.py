"""What a file says of its head's training reaches the analyses, also through a converted file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from evaltk.checkpoints.load import load_checkpoint
from evaltk.cli import convert
from evaltk.prototypes.head import head_of, other_branch
from evaltk.types import Checkpoint


@pytest.fixture
def trained(tmp_path: Path) -> Checkpoint:
    """A file as the project's own training writes it, of DINO-vMF."""
    net = load_checkpoint("random:vit_patch4_dim24_depth1_heads2_img8")
    head = {
        "head.mlp.weight": torch.randn(5, 24),
        "head.mlp.bias": torch.zeros(5),
        "head.last_layer.weight_v": torch.randn(7, 5),
        "head.last_layer.weight_g": torch.ones(7, 1),
    }
    branch = {f"backbone.{k}": t for k, t in net.weights.items()} | head
    config = {
        "method": "dino",
        "arch": dataclasses.asdict(net.arch),
        "mean": net.mean,
        "std": net.std,
        "recipe": {"method": {"scoring": "vmf", "centering": "probability"}},
    }
    other = branch | {"head.last_layer.weight_g": 2 * torch.ones(7, 1)}
    tree = {"evaltk_format": 1, "config": json.dumps(config), "teacher": branch, "student": other, "epoch": 2}
    torch.save(tree | {"dino_loss": {"center": torch.zeros(1, 7)}}, tmp_path / "own.pth")
    return load_checkpoint(tmp_path / "own.pth")


def test_own_file_says_how_it_was_trained(trained: Checkpoint) -> None:
    assert trained.head is not None
    assert (trained.head.scoring, trained.head.centering) == ("vmf", "probability")


def test_a_converted_file_says_it_too(trained: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "own.safetensors"
    convert.main([trained.origin, str(target)])
    again = load_checkpoint(target)
    assert again.head is not None
    assert (again.head.scoring, again.head.centering) == ("vmf", "probability")
    name, head, why = other_branch(again)
    assert (name, head) == ("student", None)
    assert why


def test_other_branch(trained: Checkpoint) -> None:
    name, head, why = other_branch(trained)
    assert (name, why) == ("student", "")
    assert head is not None
    torch.testing.assert_close(head.prototypes.norm(dim=1), 2 * torch.ones(7))
    torch.testing.assert_close(head_of(trained).prototypes.norm(dim=1), torch.ones(7))
