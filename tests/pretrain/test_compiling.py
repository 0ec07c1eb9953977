"""Compiled blocks: all of them stay compiled, whatever their drop path rate; where it fails, they run as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evaltk.models.vit import ViT
from pretrain import compiling, nets

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
