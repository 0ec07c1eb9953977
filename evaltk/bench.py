"""What a protocol is handed: a checkpoint's net, its features on demand, random streams; and what it hands back."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

from evaltk import deviations
from evaltk.data import sanity, transforms
from evaltk.data.images import Split
from evaltk.data.transforms import Transform, View
from evaltk.types import Checkpoint, Deviation, Features, PixelView, Recipe, Score

if TYPE_CHECKING:
    import numpy as np
    import torch

    from evaltk.features.extraction import Extraction
    from evaltk.models.backbone import Backbone


class AnyDataset(typing.Protocol):
    """What every dataset has, of whatever kind (``images``, ``retrieval``, ``sequences``, ``copies``, ``masks``).

    A protocol's `kind` names the kind of dataset it runs on. `splits` are those whose features protocols may ask for;
    sequences have none. `fingerprint` is the same on every machine, `stamp` is not. `sizes`: {split: images or videos}.
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
    """Features a protocol will ask for: stated beforehand, so that one pass over the images serves all of them."""

    recipe: Recipe
    view: View = "eval"


# What is asked for of each split; without needs where the protocol reads the split's images itself.
Extracts: TypeAlias = tuple[tuple[Split, tuple[Need, ...]], ...]
Kind: TypeAlias = Literal["images", "retrieval", "sequences", "copies", "masks"]  # of datasets


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """What a user sets of the preprocessing instead of the protocol's own (None: the protocol's).

    Attributes:
        resize: shorter side in pixels.
        crop: side of the centre crop in pixels.
        interpolation: filter of the resize.
        feature: cls, mean (of patches) or cls+mean.
    """

    resize: int | None = None
    crop: int | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None
    feature: Literal["cls", "mean", "cls+mean"] | None = field(default=None, metadata={"metavar": "NAME"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a protocol found.

    Attributes:
        scores: the numbers. predictions: arrays with one row an image, kept beside the result.
        deviations: from the published protocol; rules decide by their kinds.
        notes: what else a reader of the numbers must know; nothing is decided by them.
        views: {view: how its images were made}, of those that `Protocol.extracts` does not name.
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
            view,
            c.arch.img_size,
            c.mean,
            c.std,
            resize=o.resize,
            crop=o.crop,
            interpolation=o.interpolation,
            family=c.view,
        )

    def class_feature(self, need: Need) -> Need:
        """The need with the feature that the user chose instead of the net's class feature."""
        if self.images.feature is None or need.recipe.tokens != "cls" or need.recipe.last != 1:
            return need
        return dataclasses.replace(need, recipe=dataclasses.replace(need.recipe, tokens=self.images.feature))

    def prepare(self, split: Split, needs: tuple[Need, ...]) -> None:
        """Extract what the needs name and the cache lacks: each image is decoded once, forwarded once a view."""
        from evaltk.features import extraction as features

        views: dict[Transform, dict[Recipe, None]] = {}
        for need in needs:
            views.setdefault(self.transform(need.view), {})[need.recipe] = None
        if views:
            asked = {transform: tuple(recipes) for transform, recipes in views.items()}
            features.extract_views(self.backbone, split, asked, cache=self.cache, how=self.extraction)

    def features(self, split: Split, need: Need) -> Features:
        """Features of a split, extracted now or long ago. Raises: DataError: they are the same for all images."""
        from evaltk.features import extraction as features

        transform, recipes = self.transform(need.view), (need.recipe,)
        found = features.extract(
            self.backbone, split, transform, recipes, cache=self.cache, how=self.extraction, together=False
        )
        sanity.check_varied(found[need.recipe].x, f"{split.dataset} {split.name}")
        return found[need.recipe]

    def generator(self, *names: object) -> torch.Generator:
        """A fresh random stream called `names`, the same on every process and machine."""
        from evaltk.seeding import generator

        return generator(self.seed, *names)


def unreadable(*found: Features) -> tuple[Deviation, ...]:
    """One deviation for each of the features from which unreadable images were left out."""
    return tuple(one for f in found for one in deviations.left_out(len(f.skipped), f.key.split))


def of_all_splits(dataset: AnyDataset, *needs: Need) -> Extracts:
    """The same needs of every split of a dataset."""
    return tuple((split, needs) for split in dataset.splits)


def _always(settings: Any) -> bool:
    return True


def _nothing_extracted(bench: Bench, dataset: Any, settings: Any) -> Extracts:
    return ()


def not_estimated(bench: Bench, dataset: Any, settings: Any, an_image: float | None) -> float | None:
    """The `estimate` of a protocol that cannot tell."""
    return None


def _no_check(dataset: Any, settings: Any) -> None:
    return None


def _any_checkpoint(checkpoint: Checkpoint) -> None:
    return None


def _no_files(settings: Any) -> dict[str, str]:
    return {}


def nothing_to_prepare(bench: Bench, dataset: Any, settings: Any) -> None:
    """The `prepare` of a protocol that reads no images by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """An evaluation protocol. Its module defines one as `PROTOCOL`.

    A job goes through the hooks in this order. `check` and `identity` must not import torch: they run before the
    question whether the result is there already.

    Attributes:
        name: of the protocol, its settings' flags and its results.
        version: rises when the numbers that it gives change; part of what identifies a result.
        kind: of the datasets it runs on.
        settings: a frozen dataclass whose fields all have defaults; its fields become flags, ``--NAME.FIELD``.
        run: (bench, dataset, settings) -> outcome. Called by the main process alone.
        doc: what it measures; the first line is what `evaltk ls protocols` prints.
        check: (dataset, settings). Raises for what can be refused before any work.
        identity: (settings) -> {name: sha256} of files that the settings name; part of what identifies a result.
        check_checkpoint: (checkpoint). Raises where a file lacks what the protocol needs, such as a head.
        extracts: (bench, dataset, settings) -> ((split, needs), ...): the features to extract before `run`, in one
            pass for all protocols. An empty `needs` names a split whose images `prepare` or `run` reads by itself.
        prepare: (bench, dataset, settings). Called by every process after the extraction, to share more of the work.
        chooses_feature: whether ``--feature`` decides what it measures; it is refused otherwise.
        learns: (settings) -> whether it learns classes from training images; then there have to be some, of two classes
            or more (see `evaltk.data.sanity`).
        estimate: (bench, dataset, settings, seconds from an image's file to its features, if timed) -> seconds of what
            it does beside the extraction, from a short trial; None where it cannot be told.
    """

    name: str
    version: int
    kind: Kind
    settings: type
    run: Callable[[Bench, Any, Any], Outcome]
    doc: str | None = None
    check: Callable[[Any, Any], None] = _no_check
    identity: Callable[[Any], Mapping[str, str]] = _no_files
    check_checkpoint: Callable[[Checkpoint], None] = _any_checkpoint
    extracts: Callable[[Bench, Any, Any], Extracts] = _nothing_extracted
    prepare: Callable[[Bench, Any, Any], None] = nothing_to_prepare
    chooses_feature: bool = False
    learns: Callable[[Any], bool] = _always
    estimate: Callable[[Bench, Any, Any, float | None], float | None] = not_estimated

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"Protocol.name is a Python identifier, not {self.name!r}")
        if isinstance(self.version, bool) or not isinstance(self.version, int) or self.version < 1:
            raise ValueError(f"{self.name}: Protocol.version is an integer >= 1, not {self.version!r}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"{self.name}: Protocol.kind is one of {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not (isinstance(self.settings, type) and dataclasses.is_dataclass(self.settings)):
            raise TypeError(f"{self.name}: Protocol.settings is a frozen dataclass, not {self.settings!r}")
        if not self.settings.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise TypeError(
                f"{self.name}: Protocol.settings is a frozen dataclass; {self.settings.__name__} is not frozen"
            )
        unset = [f.name for f in dataclasses.fields(self.settings) if f.default is f.default_factory]
        if unset:  # both are MISSING
            raise TypeError(f"{self.name}: every field of Protocol.settings has a default, not so {', '.join(unset)}")
        for hook in ("run", "check", "identity", "check_checkpoint", "extracts", "prepare", "learns"):
            if not callable(getattr(self, hook)):
                raise TypeError(f"{self.name}: Protocol.{hook} is a function, not {getattr(self, hook)!r}")

    @property
    def summary(self) -> str:
        """What it measures, in a line."""
        return (self.doc or self.name).strip().splitlines()[0]
