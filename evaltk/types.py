"""The values that travel through the house: file -> Checkpoint -> Backbone -> Features -> Score -> Result -> Table.

All are frozen; a step takes one and gives the next. Nothing here imports torch, so that tables and `--help` stay quick.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from evaltk.deviations import Deviation as Deviation
from evaltk.deviations import DeviationKind as DeviationKind

if TYPE_CHECKING:
    import numpy as np
    import torch

EXTRACTION_VERSION = 1  # rises when the numbers that extraction gives change
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Precision = Literal["fp32", "bf16"]
PositionRule = Literal["dino", "size", "timm"]


class OriginProof(StrEnum):
    """What proves that weights are of the method and training that a checkpoint is taken for."""

    LAYOUT = "training layout"  # a full training checkpoint, whose layout only that method's code writes
    SHA256 = "pinned sha256"  # the bytes of a catalogued file
    USER = "user's word"  # the user named the family
    NONE = "none"  # tensors alone, which anyone may have trained


def canonical(value: object) -> str:
    """One text for one value: JSON with sorted keys and no spaces, the input of every digest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: object) -> str:
    """sha256 in hex of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """What net the weights are for.

    Attributes:
        name: timm-style name where one fits, else a spelled-out one (``vit_p4_d128_l4_h4``).
        kind: the builder: ``vit``, ``resnet``, ``xcit`` (both by timm) or ``pixels`` (no net: the image itself).
        patch_size: side of a patch in pixels; the total stride for a convolutional net.
        embed_dim: width of a token, D.
        depth: number of blocks. num_heads: attention heads (0 where there are none).
        mlp_ratio: hidden width of the MLP over embed_dim.
        img_size: side in pixels of the images the position table was learnt for.
        norm_eps: epsilon of every LayerNorm.
        registers: number of register tokens. layer_scale: whether blocks scale their branches.
        class_position: whether the position table has a row for the class token.
    """

    name: str
    kind: str = "vit"
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    img_size: int
    norm_eps: float
    registers: int = 0
    layer_scale: bool = False
    class_position: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeights:
    """A projection head as tensors.

    Attributes:
        kind: ``dino`` | ``ibot`` | ``msn``.
        tensors: MLP keys (``mlp.0.weight`` ...), ``prototypes.weight_g|weight_v|weight`` and, for iBOT,
            ``patch_prototypes.*`` where they are not shared.
        center: the training centre of the logits [K], or None where the file has none.
        scoring: ``linear`` | ``cosine`` | ``vmf`` where the file says what it was trained with, else None.
        centering: ``logit`` | ``probability``, the space of the centre, likewise.
    """

    kind: str
    tensors: Mapping[str, torch.Tensor]
    center: torch.Tensor | None = None
    scoring: str | None = None
    centering: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A weight file, understood.

    Attributes:
        name: short name for tables. family: the file format's family. branch: which copy of the net was taken.
        arch: the architecture. weights: {our key: float32 tensor}, exactly the net's. head: or None.
        mean, std: per-channel pixel statistics the net expects, of RGB in [0, 1].
        sha256: of the file's bytes. digest: of the weights used, the architecture and nothing else.
        origin: path or name as given. dropped: {key: the rule that dropped it}. epoch: training epochs done, or None.
        trained_seed: of the training run, where the file states it.
        origin_proof: what proves where the weights are from.
        notes: what the file does not say and its family fixes by convention, and hints that were set aside.
    """

    name: str
    family: str
    branch: str
    arch: Arch
    weights: Mapping[str, torch.Tensor]
    head: HeadWeights | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sha256: str
    digest: str
    origin: str
    dropped: Mapping[str, str] = field(default_factory=dict)
    epoch: int | None = None
    trained_seed: int | None = None
    origin_proof: OriginProof = OriginProof.NONE
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens after one block: cls [B, D], patches [B, h*w, D] row by row, grid (h, w)."""

    cls: torch.Tensor
    patches: torch.Tensor
    grid: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one feature vector is made from tokens.

    Attributes:
        tokens: ``cls``, ``mean`` (of patches) or ``cls+mean`` (concatenated in that order, not interleaved).
        last: class tokens of so many last blocks are concatenated, oldest first; means come from the last block only.
        norm: whether the net's final LayerNorm is applied (to every block taken).
    """

    tokens: Literal["cls", "mean", "cls+mean"] = "cls"
    last: int = 1
    norm: bool = True

    def text(self) -> str:
        """The recipe in one word, part of the cache key."""
        return f"{self.tokens}/last{self.last}/{'normed' if self.norm else 'prenorm'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKey:
    """What features depend on, in full. Two equal keys mean equal numbers.

    Attributes:
        sha256: digest of the weights used and of the architecture.
        dataset: fingerprint of the split's files, with their local stamp. split: its name.
        transform: full text of the preprocessing. recipe: text of the recipe.
        precision: ``fp32`` | ``bf16``. position: rule for position tables at other sizes.
        version: of the extraction code; it rises when its numbers change.
    """

    sha256: str
    dataset: str
    split: str
    transform: str
    recipe: str
    precision: str
    position: str
    version: int

    def digest(self) -> str:
        """sha256 in hex, the name of the cache entry."""
        return digest(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Features of one split.

    Attributes:
        x: [N, D] float32, memory-mapped read-only. y: [N] int64 class ids. ids: N names, one an image.
        key: what made them. skipped: names of images that could not be read and were left out.
    """

    x: np.ndarray
    y: np.ndarray
    ids: tuple[str, ...]
    key: FeatureKey
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number.

    Attributes:
        value: a fraction in [0, 1] unless the metric's name says otherwise. n: items it was measured on.
        at: the settings it holds at, e.g. ``{"k": 20, "temperature": 0.07}``.
        interval: 95 % interval (low, high), or None.
    """

    dataset: str
    split: str
    metric: str
    value: float
    n: int
    at: Mapping[str, object] = field(default_factory=dict)
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultData:
    """What a result was measured on, without paths.

    Attributes:
        fingerprint: the same on every machine. sizes: {split: images or videos}; {} where an old result has none.
    """

    name: str
    fingerprint: str
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelView:
    """How images became the net's input in one view; what a view does not have or an old result does not say is None.

    Attributes:
        resize: shorter side in pixels before the crop. crop: side of the crop. interpolation: filter of the resize.
        mean, std: pixel statistics of RGB in [0, 1]. augmented: whether the view is drawn at random.
        text: the same and more in words, for people; nothing is decided by it.
    """

    text: str
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augmented: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """From image files to features.

    Attributes:
        precision: of the forward pass. position: rule for position tables at other sizes. None: an old result without.
        overrides: {resize, crop, interpolation} as far as the user set them instead of the protocol.
        views: {name: how its images were made}.
    """

    precision: str | None
    position: str | None
    overrides: Mapping[str, object] = field(default_factory=dict)
    views: Mapping[str, PixelView] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run of one protocol found, and all that made it.

    Attributes:
        checkpoint: {name, sha256, digest, family, branch, arch}. request: digest of everything asked for.
        origin_proof: what proves where the weights are from. settings: the protocol's, and nothing else.
        deviations: from the published protocol, as rules need them. notes: what else a reader must know; texts only.
        scores: the numbers. made: {git, versions, device, precision, seconds, date}; nothing in it changes a score.
    """

    checkpoint: Mapping[str, object]
    protocol: str
    version: int
    settings: Mapping[str, object]
    data: ResultData
    preprocessing: Preprocessing
    scores: tuple[Score, ...]
    seed: int
    request: str
    made: Mapping[str, object]
    origin_proof: OriginProof = OriginProof.NONE
    deviations: tuple[Deviation, ...] = ()
    notes: tuple[str, ...] = ()
