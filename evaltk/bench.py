"""What a protocol is handed: a checkpoint's net, its features on demand, random streams; and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias

from evaltk import deviations
from evaltk.data import transforms
from evaltk.data.images import Split
from evaltk.data.transforms import Transform, View
from evaltk.types import Checkpoint, Deviation, Features, PixelView, Recipe, Score

if TYPE_CHECKING:
    import numpy as np
    import torch

    from evaltk.features.extraction import Extraction
    from evaltk.models.backbone import Backbone


class AnyDataset(Protocol):
    """What every data set has, of whatever kind (``images``, ``retrieval``, ``sequences``).

    A protocol's `KIND` names the kind of data set it runs on. `splits` are those whose features protocols ask for by
    `needs`; kinds that extract on their own have none. `fingerprint` is the same on every machine, `stamp` is not.
    `sizes`: {split: images or videos}.
    """

    KIND: ClassVar[str]

    @property
    def name(self) -> str: ...
    @property
    def deviations(self) -> tuple[Deviation, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def sizes(self) -> Mapping[str, int]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def stamp(self) -> str: ...
    @property
    def splits(self) -> tuple[Split, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Features a protocol will ask for: told beforehand, so that one pass over the images serves all of them."""

    recipe: Recipe
    view: View = "eval"


Extracts: TypeAlias = tuple[tuple[Split, tuple[Need, ...]], ...]  # what is asked for of each split


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """What a user sets of the preprocessing instead of the protocol's own (None: the protocol's).

    Attributes:
        resize: shorter side in pixels.
        crop: side of the centre crop in pixels.
        interpolation: filter of the resize.
    """

    resize: int | None = None
    crop: int | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a protocol found.

    Attributes:
        scores: the numbers. predictions: arrays with one row an image, kept beside the result.
        deviations: from the published protocol; rules decide by their kinds.
        notes: what else a reader of the numbers must know; nothing is decided by them.
        views: {view: how its images were made}, of those that `needs` does not name.
    """

    scores: tuple[Score, ...]
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict)
    deviations: tuple[Deviation, ...] = ()
    notes: tuple[str, ...] = ()
    views: Mapping[str, PixelView] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A net ready to be asked."""

    checkpoint: Checkpoint
    backbone: Backbone
    device: str
    seed: int
    cache: Path
    images: ImageOptions
    extraction: Extraction

    def transform(self, view: View = "eval") -> Transform:
        """The preprocessing a view stands for with this net."""
        c, o = self.checkpoint, self.images
        return transforms.view(
            view, c.arch.img_size, c.mean, c.std, resize=o.resize, crop=o.crop, interpolation=o.interpolation
        )

    def prepare(self, split: Split, needs: tuple[Need, ...]) -> None:
        """Extract what the needs name and the cache lacks, one pass a view."""
        from evaltk.features import extraction as features

        for view in dict.fromkeys(n.view for n in needs):
            recipes = tuple(dict.fromkeys(n.recipe for n in needs if n.view == view))
            features.extract(self.backbone, split, self.transform(view), recipes, cache=self.cache, how=self.extraction)

    def features(self, split: Split, need: Need) -> Features:
        """Features of a split, extracted now or long ago."""
        from evaltk.features import extraction as features

        transform, recipes = self.transform(need.view), (need.recipe,)
        found = features.extract(
            self.backbone, split, transform, recipes, cache=self.cache, how=self.extraction, together=False
        )
        return found[need.recipe]

    def generator(self, *names: object) -> torch.Generator:
        """A fresh random stream called `names`, the same on every process and machine."""
        from evaltk.seeding import generator

        return generator(self.seed, *names)


def unreadable(*found: Features) -> tuple[Deviation, ...]:
    """One deviation for each of the features from which unreadable images were left out."""
    return tuple(one for f in found for one in deviations.left_out(len(f.skipped), f.key.split))
