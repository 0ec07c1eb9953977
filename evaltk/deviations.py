"""Deviations from the published protocol: kinds for rules, texts for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class DeviationKind(StrEnum):
    """What deviates. Result files store the values: add, never rename.

    With one of the first group a result is not comparable with any published number (`NOT_COMPARABLE`). The effect of
    the others depends on the task: see `forbidden` in `reports/published/acceptance.toml`.
    """

    SPLIT_SIZE = "split-size"  # a split has another number of images or videos than the official one
    CLASS_COUNT = "class-count"  # the dataset has another number of classes
    GROUND_TRUTH = "ground-truth"  # retrieval: other numbers of database images or queries
    HELD_OUT = "held-out"  # training images were held out where the protocol trains on all of them
    NO_AUGMENTATION = "no-augmentation"  # trained on cached features, without augmentation
    EPOCHS = "epochs"  # trained for another number of epochs
    RECIPE = "recipe"  # the training recipe was changed
    SMOKE_TEST = "smoke-test"  # run on a few images only
    THEIRS = "theirs"  # a figure of others, imported (evaltk results import)
    UNCLASSIFIED = "unclassified"  # a format 1 note says "not comparable" for a reason no other kind covers

    ORIGINAL_IMAGES = "original-images"  # retrieval: images from before faces were blurred
    UNKNOWN_IMAGES = "unknown-images"  # retrieval: the version of the images is not known
    QUERY_BOXES = "query-boxes"  # retrieval: queries without a box to crop to
    OTHER_LISTS = "other-lists"  # few-shot: image lists other than MSN's
    OWN_DRAWS = "own-draws"  # few-shot: images drawn here, not listed
    OWN_SPLIT = "own-split"  # a split drawn or listed where no official one is published
    REENCODED_IMAGES = "reencoded-images"  # image files where the official dataset has raw pixels
    UNVERIFIED_IMAGES = "unverified-images"  # a repackaged dataset that cannot be checked against the official one
    PREPROCESSING = "preprocessing"  # pixels normalised otherwise than the protocol does
    UNREADABLE_IMAGES = "unreadable-images"  # images that could not be decoded were left out or replaced
    EMPTY_CLASSES = "empty-classes"  # classes without images
    SHARED_IMAGES = "shared-images"  # images that training and test split have in common


NOT_COMPARABLE = frozenset(
    {
        DeviationKind.SPLIT_SIZE,
        DeviationKind.CLASS_COUNT,
        DeviationKind.GROUND_TRUTH,
        DeviationKind.HELD_OUT,
        DeviationKind.NO_AUGMENTATION,
        DeviationKind.EPOCHS,
        DeviationKind.RECIPE,
        DeviationKind.SMOKE_TEST,
        DeviationKind.THEIRS,
        DeviationKind.UNCLASSIFIED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One deviation: rules use `kind`; `text` is for people and decides nothing."""

    kind: DeviationKind
    text: str

    def words(self) -> str:
        """The text, with the consequence of its kind."""
        return f"{self.text}: not comparable with published figures" if self.kind in NOT_COMPARABLE else self.text


def left_out(skipped: int, split: str) -> Iterator[Deviation]:
    """Unreadable images that were left out of a split, if any were."""
    if skipped:
        yield Deviation(kind=DeviationKind.UNREADABLE_IMAGES, text=f"{skipped} unreadable images left out of {split}")
