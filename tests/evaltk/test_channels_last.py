"""A convolutional net whose weights are ordered for tensor cores computes the same, with its maps in that order."""

from __future__ import annotations

import torch
from torch import nn

import evaltk
from evaltk.models import backbone


def test_maps_come_in_the_weights_order() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3)).eval()
    x = torch.randn(2, 3, 32, 32)
    wanted = net(x)
    backbone.channels_last(net)
    got = net(x)
    assert got.is_contiguous(memory_format=torch.channels_last) and not got.is_contiguous()
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_net_of_patches_stays_as_it_is() -> None:
    net = evaltk.build_backbone(evaltk.load_checkpoint("random:vit_patch8_dim24_depth2_heads3_img32")).net
    before = {name: parameter.stride() for name, parameter in net.named_parameters()}
    backbone.channels_last(net)
    assert {name: parameter.stride() for name, parameter in net.named_parameters()} == before
