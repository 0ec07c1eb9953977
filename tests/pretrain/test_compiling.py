"""Compiled blocks: all of them stay compiled, whatever their drop path rate; where it fails, they run as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evaltk.models.vit import ViT
from pretrain import card, compiling, methods, nets

ARCH = nets.parse("vit_patch4_dim32_depth4_heads2_img16")


def backbone() -> ViT:
    torch.manual_seed(0)
    return ViT(ARCH, drop_path=0.3).train()


def test_every_block_is_compiled_for_every_size_of_view() -> None:
    torch._dynamo.reset()
    compiled: list[int] = []

    def counting(graph: Any, example: Any) -> Any:
        compiled.append(len(graph.graph.nodes))
        return graph.forward

    net, plain = backbone(), backbone()
    assert compiling.compile_blocks([net], "fp32", backend=counting)
    for tokens in (17, 5):
        x = torch.randn(4, tokens, 32, generator=torch.Generator().manual_seed(1))
        for block, other in zip(net.blocks, plain.blocks, strict=True):
            torch.manual_seed(2)
            got = block(x)
            torch.manual_seed(2)
            assert torch.equal(got, other(x))
    before = len(compiled)
    assert before >= 2
    # Torch stops compiling, without a word, at its limit: the last block would then run uncompiled.
    assert all(block._compiled_call_impl is not None for block in net.blocks)
    limits = [reasons for name, reasons in torch._dynamo.utils.counters.items() if "limit" in name and reasons]
    assert not limits
    net.blocks[-1](x)
    assert len(compiled) == before
    torch._dynamo.reset()


def test_what_cannot_be_compiled_runs_uncompiled_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    torch._dynamo.reset()

    def broken(graph: Any, example: Any) -> Any:
        raise OSError("no compiler here")

    net, plain = backbone().eval(), backbone().eval()
    assert not compiling.compile_blocks([net], "fp32", backend=broken)
    assert "uncompiled" in caplog.text and "no compiler here" in caplog.text
    x = torch.randn(2, 5, 32)
    assert torch.equal(net.blocks[0](x), plain.blocks[0](x))
    torch._dynamo.reset()


@pytest.mark.parametrize("method", ["dino", "ibot"])
def test_on_a_card_the_last_block_computes_what_is_read(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = methods.get(method).settings(num_prototypes=8, hidden=16, bottleneck=8)
    net = methods.get(method).network(ARCH, settings, drop_path=0.3).double()
    views = [torch.randn(3, 3, size, size, dtype=torch.float64) for size in (16, 16, 8)]
    patches = None if method == "dino" else torch.arange(5)
    seen: list[int] = []
    net.backbone.blocks[-1].register_forward_hook(lambda block, args, out: seen.append(out.shape[1]))

    def outputs() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor | None]]:
        torch.manual_seed(0)
        net.zero_grad()
        out = net(views, patches=patches)
        sum((value * torch.arange(value.shape[-1])).sum() for value in out.values()).backward()
        return out, {name: p.grad for name, p in net.named_parameters()}

    on_cpu, gradients = outputs()
    monkeypatch.setattr(card, "is_card", lambda device: True)
    on_card, others = outputs()
    assert seen == [17, 5, 1 if method == "dino" else 17, 1]
    for name, wanted in on_cpu.items():
        assert torch.allclose(on_card[name], wanted, rtol=1e-6, atol=1e-6)  # heads give float32
    for name, gradient in gradients.items():
        other = others[name]
        assert (gradient is None) == (other is None)
        assert gradient is None or other is None or torch.allclose(other, gradient, rtol=1e-4, atol=1e-4), name
