"""Projection heads of DINO, iBOT and MSN, rebuilt from their tensors: class token -> y -> logits on prototypes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from evaltk.errors import CheckpointError
from evaltk.types import HeadWeights

NORM_EPS = 1e-12  # torch's default in F.normalize, which all three use
BN_EPS = 1e-5


class Head(nn.Module):
    """A frozen projection head in evaluation mode.

    Attributes:
        prototypes: [K, p], the effective rows w = g v/||v|| (MSN: the unit rows its loss uses).
        patch_prototypes: [K', p] for iBOT heads that do not share, else the same as `prototypes`.
        center: training centre of the logits [K] or None.
    """

    prototypes: torch.Tensor
    patch_prototypes: torch.Tensor

    def __init__(self, weights: HeadWeights) -> None:
        super().__init__()
        self.kind = weights.kind
        found = {k: t.float() if t.is_floating_point() else t for k, t in weights.tensors.items()}
        self.mlp = _msn_projector(found) if weights.kind == "msn" else _dino_mlp(found)
        w = effective(found, "prototypes.")
        patch = effective(found, "patch_prototypes.") if any(k.startswith("patch_prototypes.") for k in found) else w
        if weights.kind == "msn":
            w = patch = F.normalize(w, dim=1, eps=NORM_EPS)
        self.register_buffer("prototypes", w, persistent=False)
        self.register_buffer("patch_prototypes", patch, persistent=False)
        self.center = None if weights.center is None else weights.center.float()
        self.eval().requires_grad_(False)

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """The bottleneck before it is normalised: [..., D] -> [..., p]."""
        shape = tokens.shape[:-1]
        return self.mlp(tokens.reshape(-1, tokens.shape[-1])).reshape(*shape, -1)

    def embed(self, cls: torch.Tensor) -> torch.Tensor:
        """y [..., p] of unit norm, from class (or patch) tokens [..., D] after the final norm."""
        return F.normalize(self.project(cls), dim=-1, eps=NORM_EPS)

    def logits(self, y: torch.Tensor, *, patch: bool = False) -> torch.Tensor:
        """<w_k, y>: [..., p] -> [..., K], not divided by a temperature. MSN: cosines, for its rows are unit."""
        return y @ (self.patch_prototypes if patch else self.prototypes).T


def effective(found: Mapping[str, torch.Tensor], prefix: str) -> torch.Tensor:
    """Effective prototypes w [K, p]: g v/||v|| by rows (the sign of g counts), or the plain weight.

    Source: PROTOCOLS C.5; torch's weight_norm over dim 0.
    """
    v, g = found.get(f"{prefix}weight_v"), found.get(f"{prefix}weight_g")
    if v is not None and g is not None:
        norms = v.norm(dim=1, keepdim=True)
        if bool((norms == 0).any()):
            row = int((norms == 0).flatten().nonzero()[0])
            raise CheckpointError(
                wanted="prototypes with a direction",
                got=f"weight_v row {row} is zero",
                where=f"head.{prefix}weight_v",
                do="use another checkpoint",
            )
        return g.reshape(-1, 1) * v / norms
    plain = found.get(f"{prefix}weight")
    if plain is None:
        raise CheckpointError(
            wanted=f"{prefix}weight, or weight_g with weight_v",
            got=f"{sorted(found)[:6]}",
            where="head",
            do="use a full checkpoint",
        )
    return plain


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    state = {"weight": weight} | ({} if bias is None else {"bias": bias})
    layer.load_state_dict(state, assign=True)
    return layer


def _batch_norm(found: Mapping[str, torch.Tensor], prefix: str) -> nn.BatchNorm1d:
    width = found[f"{prefix}weight"].shape[0]
    layer = nn.BatchNorm1d(width, eps=BN_EPS)
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    layer.load_state_dict({n: found[f"{prefix}{n}"] for n in names if f"{prefix}{n}" in found}, strict=False)
    return layer


def _dino_mlp(found: Mapping[str, torch.Tensor]) -> nn.Module:
    """Linear [BN] GELU ... Linear, as the keys tell (dino/vision_transformer.py:257-291)."""
    if "mlp.weight" in found:  # one layer
        return _linear(found["mlp.weight"], found.get("mlp.bias"))
    indices = sorted({int(k.split(".")[1]) for k in found if k.startswith("mlp.")})
    if not indices:
        raise CheckpointError(
            wanted="the head's MLP (mlp.0.weight ...)", got="none", where="head", do="use a full checkpoint"
        )
    layers: list[nn.Module] = []
    for i in indices:
        prefix = f"mlp.{i}."
        if f"{prefix}running_mean" in found:
            layers.append(_batch_norm(found, prefix))
            continue
        if layers:
            layers.append(nn.GELU())
        layers.append(_linear(found[f"{prefix}weight"], found.get(f"{prefix}bias")))
    return nn.Sequential(*layers)


def _msn_projector(found: Mapping[str, torch.Tensor]) -> nn.Module:
    """fc1 BN GELU fc2 BN GELU fc3 (msn/src/deit.py; msn_train.py:380-392)."""
    layers: list[nn.Module] = []
    for i in (1, 2):
        layers += [_linear(found[f"fc{i}.weight"], found.get(f"fc{i}.bias"))]
        if f"bn{i}.weight" in found:
            layers.append(_batch_norm(found, f"bn{i}."))
        layers.append(nn.GELU())
    layers.append(_linear(found["fc3.weight"], found.get("fc3.bias")))
    return nn.Sequential(*layers)
