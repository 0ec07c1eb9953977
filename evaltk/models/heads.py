"""Projection heads of DINO, iBOT, MSN and SwAV, rebuilt from their tensors: feature -> y -> logits on prototypes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional as F

from evaltk import fixed_order
from evaltk.errors import CheckpointError, some
from evaltk.models import head_layout
from evaltk.types import HeadWeights

NORM_EPS = 1e-12  # torch's default in F.normalize, which all of them use
BN_EPS = 1e-5
UNIT = ("msn", "swav")  # whose losses make prototypes unit rows: logits are cosines
ROWS = 8_192  # prototypes widened to float64 at a time


class Head(nn.Module):
    """A frozen projection head in evaluation mode.

    Attributes:
        prototypes: [K, p], the effective rows w = g v/||v|| (MSN, SwAV: the unit rows their losses use).
        patch_prototypes: [K', p] for iBOT heads that do not share, else the same as `prototypes`.
        center: training centre of the logits [K] or None.
    """

    prototypes: torch.Tensor
    patch_prototypes: torch.Tensor
    center: torch.Tensor | None

    def __init__(self, weights: HeadWeights) -> None:
        super().__init__()
        self.kind = weights.kind
        found = {k: t.float() if t.is_floating_point() else t for k, t in weights.tensors.items()}
        self.mlp = _mlp(found, check(weights), nn.ReLU if weights.kind == "swav" else nn.GELU)
        w = effective(found, "prototypes.")
        patch = effective(found, "patch_prototypes.") if any(k.startswith("patch_prototypes.") for k in found) else w
        if weights.kind in UNIT:
            w = patch = unit(w)
        self.register_buffer("prototypes", w, persistent=False)
        self.register_buffer("patch_prototypes", patch, persistent=False)
        center = None if weights.center is None else weights.center.float()
        self.register_buffer("center", center, persistent=False)
        self.eval().requires_grad_(False)

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """The bottleneck before it is normalised: [..., D] -> [..., p]."""
        shape = tokens.shape[:-1]
        return self.mlp(tokens.reshape(-1, tokens.shape[-1])).reshape(*shape, -1)

    def embed(self, cls: torch.Tensor) -> torch.Tensor:
        """y [..., p] of unit norm, from class (or patch) tokens [..., D] after the final norm."""
        return F.normalize(self.project(cls), dim=-1, eps=NORM_EPS)

    def logits(self, y: torch.Tensor, *, patch: bool = False) -> torch.Tensor:
        """<w_k, y>: [..., p] -> [..., K], not divided by a temperature. MSN, SwAV: cosines, as their rows are unit."""
        return y @ (self.patch_prototypes if patch else self.prototypes).T


def effective(found: Mapping[str, torch.Tensor], prefix: str) -> torch.Tensor:
    """Effective prototypes w [K, p]: g v/||v|| by rows (the sign of g counts), or the plain weight.

    In float64 and a fixed order, then rounded once: prototypes are the same on every processor, and so are their
    norms, by which they are ranked. Source: torch's weight_norm over dim 0.
    """
    plain = found.get(f"{prefix}weight")
    if plain is not None:
        return plain
    v, g = found[f"{prefix}weight_v"], found[f"{prefix}weight_g"]
    norms = _norms(v)
    if bool((norms == 0).any()):
        row = int((norms == 0).flatten().nonzero()[0])
        raise CheckpointError(
            wanted="prototypes with a direction",
            got=f"weight_v row {row} is zero",
            where=f"head.{prefix}weight_v",
            do="use another checkpoint",
        )
    made = torch.empty_like(v)
    for part, rows, gains, of in zip(*(t.split(ROWS) for t in (made, v, g.reshape(-1, 1), norms)), strict=True):
        part.copy_(gains.double() * rows.double() / of)
    return made


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows [K, p] at length 1, the same on every processor; one shorter than `NORM_EPS` is divided by that."""
    made = torch.empty_like(rows)
    for part, given in zip(made.split(ROWS), rows.split(ROWS), strict=True):
        part.copy_(given.double() / _norms(given).clamp(min=NORM_EPS))
    return made


def _norms(rows: torch.Tensor) -> torch.Tensor:
    """Lengths [K, 1] float64."""
    return torch.cat([fixed_order.dot(some, some) for some in rows.split(ROWS)]).sqrt()[:, None]


def check(weights: HeadWeights, where: object = "head", *, width: int | None = None) -> tuple[str, ...]:
    """The head's layers in their order, once its tensors are found to be exactly a head's, each in its shape.

    Args:
        width: of the tokens that enter, or None where it does not matter.

    Returns: prefixes of the MLP's layers, e.g. ``("mlp.0.", "mlp.2.", "mlp.4.")``.
    Raises: CheckpointError: a tensor that is missing, left over or of another shape.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.tensors.items()}
    order = head_layout.msn(shapes) if weights.kind == "msn" else head_layout.dino(shapes)
    faults = head_layout.faults(shapes, order, width=width, patches=weights.kind == "ibot")
    if weights.center is not None and not faults and weights.center.numel() != head_layout.rows(shapes, "prototypes."):
        faults = [f"a centre of {weights.center.numel()} for {head_layout.rows(shapes, 'prototypes.')} prototypes"]
    if faults:
        raise CheckpointError(
            wanted=f"the whole projection head of {weights.kind}, and nothing else",
            got=some(faults),
            where=where,
            do="use the whole training checkpoint, or a file of the backbone alone",
        )
    return order


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    state = {"weight": weight} | ({} if bias is None else {"bias": bias})
    layer.load_state_dict(state, assign=True)
    return layer


def _batch_norm(found: Mapping[str, torch.Tensor], prefix: str) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(found[f"{prefix}weight"].shape[0], eps=BN_EPS)
    given = {name: found[f"{prefix}{name}"] for name in head_layout.BATCH_NORM}
    # The count of batches is absent from old files and takes no part in evaluation.
    layer.load_state_dict(given | {"num_batches_tracked": torch.tensor(0)}, strict=True)
    return layer


def _mlp(
    found: Mapping[str, torch.Tensor], order: tuple[str, ...], activation: Callable[[], nn.Module] = nn.GELU
) -> nn.Sequential:
    """Linear [BN] GELU ... Linear: dino/vision_transformer.py:257-291; msn/src/deit.py, msn_train.py:380-392.

    SwAV's has ReLU: swav/src/resnet50.py:180-190.
    """
    layers: list[nn.Module] = []
    for prefix in order:
        if f"{prefix}running_mean" in found:
            layers.append(_batch_norm(found, prefix))
            continue
        if layers:
            layers.append(activation())
        layers.append(_linear(found[f"{prefix}weight"], found.get(f"{prefix}bias")))
    return nn.Sequential(*layers)
