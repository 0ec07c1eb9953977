"""Linear heads as people publish them: their layouts, DINO's interleaved columns, and files that hold no head."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from evaltk.errors import CheckpointError, SettingsError
from evaltk.types import Recipe
from protocols.linear import published_head as linear_heads
from protocols.linear.published_head import LinearHead

CLASSES, WIDTH = 5, 4
WEIGHT = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
BIAS = torch.arange(CLASSES).float()
C, D, BOTH = Recipe(), Recipe(last=4), Recipe(tokens="cls+mean")


def saved(path: Path, tree: object) -> Path:
    torch.save(tree, path)
    return path


@pytest.mark.parametrize(
    "tree",
    [
        {"state_dict": {"module.linear.weight": WEIGHT, "module.linear.bias": BIAS}, "epoch": 100, "best_acc": 77.0},
        {"head.weight": WEIGHT, "head.bias": BIAS},
        {"fc.weight": WEIGHT, "fc.bias": BIAS},
        {"linear.weight": WEIGHT.double(), "linear.bias": BIAS.half()},
        OrderedDict(weight=WEIGHT, bias=BIAS),
        {"model": {"head.weight": WEIGHT, "head.bias": BIAS}},
    ],
)
def test_the_layouts_there_are(tmp_path: Path, tree: dict) -> None:
    head = linear_heads.read(saved(tmp_path / "head.pth", tree))
    assert torch.equal(head.weight, WEIGHT) and torch.equal(head.bias, BIAS)
    assert head.weight.dtype == head.bias.dtype == torch.float32
    (note,) = head.notes
    assert note.startswith("head of head.pth (sha256 ")


def test_what_else_the_file_holds_is_told(tmp_path: Path) -> None:
    net = {"patch_embed.proj.weight": torch.ones(WIDTH, 3, 8, 8), "blocks.0.norm1.weight": torch.ones(WIDTH)}
    tree = {"head.weight": WEIGHT, **net}
    head = linear_heads.read(saved(tmp_path / "net.pth", tree))
    assert not head.bias.any() and len(head.bias) == CLASSES
    assert head.notes[1:] == (
        "2 other tensors of net.pth were not used: it holds more than the head", "net.pth has no bias: 0 taken",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"cls_token": torch.zeros(1, 1, 4)}, r"one classifier: .* under linear\., head\. or fc\.; got cls_token"),
        ({}, "got no tensors"),
        (
            {"bn.running_var": torch.ones(4), "fc.weight": WEIGHT},
            "with its whole net; got others beside it: bn.running_var",
        ),
        ({"head.weight": WEIGHT, "scale": torch.ones(())}, "others beside it: scale; .* do: fold them"),
        ({"head.weight": WEIGHT, "fc.weight": WEIGHT}, "got head.weight, fc.weight"),
        ({"head.weight": WEIGHT, "head.bias": BIAS[:3]}, r"a bias \[5\]; got \[3\] beside a weight \[5, 4\]"),
        ({"head.weight": WEIGHT[0]}, "got head.weight"),
        ({"head.weight": WEIGHT / 0, "head.bias": BIAS}, "finite float numbers; got NaN or infinity in head.weight"),
        ({"head.weight": WEIGHT, "head.bias": BIAS * torch.nan}, "got NaN or infinity in head.bias"),
        ({"head.weight": WEIGHT.long()}, "got torch.int64 in head.weight"),
        ({"head.weight": WEIGHT, "fc_norm.weight": torch.ones(4)}, "a linear head alone; got one behind fc_norm"),
    ],
)
def test_files_that_hold_no_head(tmp_path: Path, tree: dict, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        linear_heads.read(saved(tmp_path / "head.pth", tree))


class Evil:
    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('executed')",))


def test_unreadable_and_hostile_files(tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    with pytest.raises(CheckpointError, match=r"no such file; where: .*head\.pth"):
        linear_heads.read(path)
    with pytest.raises(CheckpointError, match=r"or a catalogue name; got 'dino_vits16_liner'.*dino_vits16_linear"):
        linear_heads.read("dino_vits16_liner")
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(CheckpointError, match="a web page"):
        linear_heads.read(path)
    saved(path, {"head.weight": Evil()})
    with pytest.raises(CheckpointError, match=r"a call of builtins\.exec, which was not made"):
        linear_heads.read(path)


def test_interleaved_columns_are_parted_as_dinos_code_joins_them() -> None:
    draw = torch.Generator().manual_seed(1)
    cls, mean = (torch.randn(3, WIDTH, generator=draw) for _ in range(2))
    weight = torch.randn(CLASSES, 2 * WIDTH, generator=draw)
    # What DINO's evaluation feeds its head: a last axis of pairs, flattened.
    theirs = torch.stack([cls, mean], dim=-1).reshape(3, -1) @ weight.T
    ours = torch.cat([cls, mean], dim=1) @ linear_heads.deinterleave(weight).T
    torch.testing.assert_close(ours, theirs)
    numbered = linear_heads.deinterleave(torch.arange(6.0)[None])
    assert numbered.tolist() == [[0, 2, 4, 1, 3, 5]]


def matched(dim: int, recipes: tuple[Recipe, ...], family: str = "dino", order: str = "auto", classes: int = CLASSES):  # type: ignore[no-untyped-def]
    weight = torch.arange(CLASSES * dim).float().view(CLASSES, dim)
    head = LinearHead(weight=weight, bias=BIAS, origin=Path("h.pth"))
    return linear_heads.match(
        head, recipes, embed_dim=WIDTH, num_classes=classes, family=family, order=order  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_width_tells_which_feature_a_head_is_for() -> None:
    assert matched(WIDTH, (C, D))[0] == C
    recipe, head = matched(4 * WIDTH, (C, D))
    assert recipe == D and head.weight[0].tolist() == list(range(16))
    assert head.notes == ("on cls/last4/normed, class tokens oldest block first",)
    with pytest.raises(SettingsError, match=r"a head on features of 4 \(cls/last1/normed\), 16 \(cls.*; got 12; where"):
        matched(3 * WIDTH, (C, D))
    with pytest.raises(SettingsError, match=r"got 8, which fits several.*--linear\.blocks and --linear\.pool"):
        matched(2 * WIDTH, (BOTH, Recipe(last=2)))
    with pytest.raises(SettingsError, match=r"a head of 10 classes; got 5; where: h\.pth"):
        matched(WIDTH, (C, D), classes=10)


def test_the_order_of_pooled_columns_is_never_a_silent_guess() -> None:
    mixed, plain = [0, 2, 4, 6, 1, 3, 5, 7], list(range(8))
    for family, order, row, note in (
        ("dino", "auto", mixed, "interleaved (cls_0, mean_0, cls_1, ...), as heads of dino checkpoints are"),
        ("ibot", "auto", plain, "plain [cls ; mean], as heads of ibot checkpoints are"),
        ("dino", "plain", plain, "plain [cls ; mean], as --linear.head-order says"),
        ("timm", "interleaved", mixed, "interleaved (cls_0, mean_0, cls_1, ...), as --linear.head-order says"),
    ):
        recipe, head = matched(8, (C, BOTH), family, order)
        assert recipe == BOTH and head.weight[0].tolist() == row and head.notes[-1].endswith(note)
    with pytest.raises(
        SettingsError, match=r"order of the head's columns; got a checkpoint of family timm.*head-order"
    ):
        matched(8, (C, BOTH), "timm")
    pooled = Recipe(tokens="cls+mean", last=4)
    with pytest.raises(SettingsError, match="got 4 blocks interleaved with one mean"):
        matched(5 * WIDTH, (pooled,), "dino")
    assert matched(5 * WIDTH, (pooled,), "dino", "plain")[0] == pooled
