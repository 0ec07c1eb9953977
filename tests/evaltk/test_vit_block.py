"""Our block against timm's own: the same bits, and the class token alone as it is among all tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.models import vision_transformer
from torch import nn

import evaltk
from evaltk.models import vit_block
from evaltk.types import Recipe


def timm_block(**options: object) -> vision_transformer.Block:
    torch.manual_seed(0)
    block = vision_transformer.Block(24, num_heads=3, qkv_bias=True, drop_path=0.4, **options).train()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


def passed(block: nn.Module, x: torch.Tensor, **options: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The first token's output, and the gradients of a sum over it."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    y = block(x, **options)[:, :1]
    (y * torch.linspace(-1, 1, y.shape[-1], dtype=y.dtype)).sum().backward()
    assert x.grad is not None
    return y.detach(), {name: p.grad for name, p in block.named_parameters()} | {"x": x.grad}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"init_values": 0.5}])
def test_it_is_timms_to_the_bit(dtype: torch.dtype, options: dict[str, object]) -> None:
    timms = timm_block(**options).to(dtype)
    ours = copy.deepcopy(timms)
    vit_block.refine(ours)
    assert isinstance(ours, vit_block.Block) and isinstance(ours.attn, vit_block.Attention)
    assert list(ours.state_dict()) == list(timms.state_dict())
    x = torch.randn(5, 17, 24, dtype=dtype)
    (y, grads), (wanted, wanted_grads) = passed(ours, x), passed(timms, x)
    assert torch.equal(y, wanted)
    assert all(torch.equal(grads[name], wanted_grads[name]) for name in wanted_grads)


@pytest.mark.parametrize("options", [{}, {"init_values": 0.5}])
def test_the_class_token_alone(options: dict[str, object]) -> None:
    block = timm_block(**options).double()
    vit_block.refine(block)
    x = torch.randn(5, 17, 24, dtype=torch.float64)
    (y, grads), (wanted, wanted_grads) = passed(block, x, class_only=True), passed(block, x)
    assert block(x, class_only=True).shape == (5, 1, 24)
    assert torch.allclose(y, wanted, rtol=1e-12, atol=1e-12)
    for name, grad in wanted_grads.items():
        assert torch.allclose(grads[name], grad, rtol=1e-10, atol=1e-10), name
    assert wanted_grads["x"][:, 1:].abs().max() > 0  # it reads the other tokens


def test_a_block_of_another_kind_stays_as_it_is() -> None:
    normed = timm_block(qk_norm=True, norm_layer=nn.LayerNorm)
    vit_block.refine(normed)
    assert type(normed) is vision_transformer.Block


@pytest.mark.parametrize("last", [1, 2])
def test_features_of_class_tokens_alone(last: int) -> None:
    net = evaltk.build_backbone(evaltk.load_checkpoint("random:vit_patch8_dim24_depth2_heads3_img32"))
    x = torch.randn(4, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    recipes = (Recipe(last=last), Recipe(norm=False))
    wanted, seen = net.features(x, recipes), []
    assert not net.spares_patches
    net.spares_patches = True
    net.net.blocks[-1].register_forward_hook(lambda block, args, out: seen.append(out.shape[1]))
    for got, right in zip(net.features(x, recipes), wanted, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-5)
    net.features(x, (*recipes, Recipe(tokens="mean")))
    assert seen == [1, 21]
