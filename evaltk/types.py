"""The values passed between stages: file -> Checkpoint -> Backbone -> Features -> Score -> Result -> Table.

All are frozen. This module does not import torch, so that tables and `--help` stay fast.
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

EXTRACTION_VERSION = 1  # incremented whenever extracted features change
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Precision = Literal["fp32", "bf16"]
# How positions learnt on one grid of patches are made for another. Of position tables: bicubic with DINO's offset, to
# the size, and to the size with antialiasing (`timm` is an older name of that). Of relative position tables: bilinear.
PositionRule = Literal["dino", "size", "size_aa", "bilinear", "timm"]
Activation = Literal["gelu", "quickgelu", "gelu_tanh", "silu", "relu"]
Interpolation = Literal["bicubic", "bilinear"]


class OriginProof(StrEnum):
    """Evidence that the weights come from the method and training run they are attributed to."""

    LAYOUT = "training layout"  # a full training checkpoint, in a layout that only that method's code writes
    SHA256 = "pinned sha256"  # the bytes of a file in the catalogue
    USER = "user's word"  # the user named the family
    NONE = "none"  # bare tensors, which anyone may have trained


def canonical(value: object) -> str:
    """Canonical JSON (sorted keys, no spaces): equal values have equal texts. The input of every digest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: object) -> str:
    """sha256 in hex of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


Detail = bool | int | float | str | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """Architecture of a net.

    Attributes:
        name: timm-style name if one fits, else a descriptive one (``vit_p4_d128_l4_h4``).
        kind: the builder: ``vit``, ``beit``, ``eva`` (rotary positions), ``swin``, ``resnet``, ``xcit`` or ``pixels``
            (no net: the image itself).
        patch_size: side of a patch in pixels; the total stride for a convolutional net.
        embed_dim: width of a token, D.
        depth: number of blocks. num_heads: attention heads (0 where there are none).
        mlp_ratio: hidden width of the MLP over embed_dim.
        img_size: side in pixels of the images the position embedding was trained for.
        norm_eps: epsilon of every LayerNorm.
        registers: number of register tokens. layer_scale: whether blocks have LayerScale.
        class_position: whether the position embedding has a row for the class token.
        activation: of the MLPs.
        pool: what the class feature is: ``token`` (class token), ``avg`` (mean of patches) or ``map`` (attention pool).
        details: (name, value) of whatever else fixes a net of this kind; see the kind.
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
    activation: str = "gelu"
    pool: str = "token"
    details: tuple[tuple[str, Detail], ...] = ()

    def detail(self, name: str, default: Detail = False) -> Detail:
        """The value of a detail, `default` where it is not stated."""
        return dict(self.details).get(name, default)

    def identity(self) -> dict[str, object]:
        """All that features depend on, as JSON has it: without the name, and without what later versions added where it
        has its first value, so that digests made before stay what they were.
        """
        added = {"activation": "gelu", "pool": "token", "details": ()}
        stated = {k: v for k, v in asdict(self).items() if k != "name"}
        return {k: v for k, v in stated.items() if k not in added or v != added[k]}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalView:
    """How the code that published a net makes images for evaluation.

    Attributes:
        crop: side of the centre crop in pixels, None: the size the net was trained for.
        margin: size of the resize over the crop's; 1 for no margin (256/224: dino/eval_knn.py:32-37).
        interpolation: filter of the resize.
        square: both sides are resized, which loses the aspect ratio; else the shorter one.
    """

    crop: int | None = None
    margin: float = 256 / 224
    interpolation: Interpolation = "bicubic"
    square: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeights:
    """Tensors of a projection head.

    Attributes:
        kind: ``dino`` | ``ibot`` | ``msn`` | ``swav``.
        tensors: MLP keys (``mlp.0.weight`` ...), ``prototypes.weight_g|weight_v|weight`` and, for iBOT,
            ``patch_prototypes.*`` unless shared.
        center: the training centre of the logits [K], or None if the file has none.
        scoring: ``linear`` | ``cosine`` | ``vmf`` if the file states what it was trained with, else None.
        centering: ``logit`` | ``probability``, the space of the centre, or None like scoring.
    """

    kind: str
    tensors: Mapping[str, torch.Tensor]
    center: torch.Tensor | None = None
    scoring: str | None = None
    centering: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        name: short name for tables. family: of the file format. branch: which copy of the net (student, teacher ...).
        arch: the architecture. weights: {our key: float32 tensor}, exactly the net's. head: projection head or None.
        mean, std: per-channel pixel statistics the net expects, for RGB in [0, 1].
        sha256: of the file's bytes. digest: of the weights used and the architecture only.
        origin: path or name as given. dropped: {key: the rule that dropped it}. epoch: epochs trained, or None.
        trained_seed: seed of the training run if the file contains it.
        origin_proof: evidence for where the weights come from. catalogued: name of these bytes in the catalogue, or "".
        notes: what the file does not contain and the family's conventions fixed, and hints that were ignored.
        position: the family's rule for positions at other image sizes, None where nothing tells it.
        view: how the family's own code makes images for evaluation.
        linear: the feature of the family's own linear probe, None where DINO's rule by width is taken.
        container: how the file keeps the net, in words. skipped: objects in the file that were not rebuilt.
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
    catalogued: str = ""
    notes: tuple[str, ...] = ()
    position: PositionRule | None = "dino"
    view: EvalView = field(default_factory=lambda: EvalView())
    linear: Recipe | None = None
    container: str = ""
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens after one block: cls [B, D], patches [B, h*w, D] in row-major order, grid (h, w).

    `cls` is the net's class feature: the class token, or what its family pools where that is another.
    """

    cls: torch.Tensor
    patches: torch.Tensor
    grid: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a feature vector is built from tokens.

    Attributes:
        tokens: ``cls``, ``mean`` (of patches) or ``cls+mean`` (concatenated in that order, not interleaved).
        last: concatenate the class tokens of this many last blocks, oldest first; the mean is of the last block only.
        norm: whether the net's final LayerNorm is applied (to every block used).
    """

    tokens: Literal["cls", "mean", "cls+mean"] = "cls"
    last: int = 1
    norm: bool = True

    def text(self) -> str:
        """The recipe as one word; part of the cache key."""
        return f"{self.tokens}/last{self.last}/{'normed' if self.norm else 'prenorm'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKey:
    """Everything that features depend on: equal keys mean equal features.

    Attributes:
        sha256: digest of the weights used and of the architecture.
        dataset: fingerprint of the split's files, with their modification times. split: its name.
        transform: full text of the preprocessing. recipe: text of the recipe.
        precision: ``fp32`` | ``bf16``. position: how position embeddings are resized.
        version: of the extraction code; incremented when its output changes.
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
        """sha256 in hex; the name of the cache entry."""
        return digest(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Features of one split.

    Attributes:
        x: [N, D] float32, memory-mapped read-only. y: [N] int64 class ids. ids: N image names.
        key: what the features depend on. skipped: names of unreadable images that were left out.
    """

    x: np.ndarray
    y: np.ndarray
    ids: tuple[str, ...]
    key: FeatureKey
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One measured number.

    Attributes:
        value: a fraction in [0, 1] unless the metric's name implies otherwise. n: number of items evaluated.
        at: the settings of this number, e.g. ``{"k": 20, "temperature": 0.07}``.
        interval: 95 % confidence interval (low, high), or None.
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
    """The dataset a result was measured on, without paths.

    Attributes:
        fingerprint: the same on every machine. sizes: {split: number of images or videos}; {} for old results.
    """

    name: str
    fingerprint: str
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelView:
    """Preprocessing of one view. A field is None if the view has no such step or an old result does not contain it.

    Attributes:
        resize: shorter side in pixels before the crop. crop: side of the crop. interpolation: filter of the resize.
        mean, std: pixel statistics of RGB in [0, 1]. augmented: whether the view is random.
        text: a full description for readers; no code depends on it.
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
    """Preprocessing from image files to features.

    Attributes:
        precision: of the forward pass. position: how position embeddings are resized. None for old results.
        overrides: those of {resize, crop, interpolation} that the user set instead of the protocol.
        views: {view name: its preprocessing}.
    """

    precision: str | None
    position: str | None
    overrides: Mapping[str, object] = field(default_factory=dict)
    views: Mapping[str, PixelView] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The scores of one run of one protocol, with their provenance.

    Attributes:
        checkpoint: {name, sha256, digest, family, branch, arch}. request: digest of everything requested.
        origin_proof: evidence for where the weights come from. settings: the protocol's settings only.
        deviations: from the published protocol, machine-readable. notes: further remarks for the reader, text only.
        scores: the numbers. made: {git, versions, device, precision, seconds, date}; nothing in it affects a score.
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
