"""Extract features once: in shards, resumable, shared over processes, one decoding and forward pass for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaltk import distributed
from evaltk.data.images import Split
from evaltk.data.transforms import Transform
from evaltk.errors import StorageError
from evaltk.features import checks, passes
from evaltk.features.cache import cache_key, splits_key
from evaltk.features.nets import Extraction, FeatureNet, FeatureSpec, Spec, auto_batch, back, finite, forward
from evaltk.features.shards import Entry
from evaltk.types import EXTRACTION_VERSION, FeatureKey, Features

__all__ = [
    "Extraction", "FeatureNet", "FeatureSpec", "auto_batch", "back", "extract", "extract_views", "finite", "forward",
    "key_of", "stored",
]  # fmt: skip


def key_of(net: FeatureNet[Any], split: Split, transform: Transform, spec: FeatureSpec) -> FeatureKey:
    """All that the features of this split depend on."""
    return cache_key(
        net, **splits_key(split), transform=transform.text(), recipe=spec.text(), version=EXTRACTION_VERSION
    )


def extract(
    net: FeatureNet[Spec],
    split: Split,
    transform: Transform,
    specs: Sequence[Spec],
    *,
    cache: Path,
    how: Extraction | None = None,
    together: bool = True,
) -> dict[Spec, Features]:
    """Features of a split for each spec, from the cache where they are there.

    Args:
        specs: what to keep of the tokens; all that are missing share one forward pass.
        cache: root folder of the feature cache.
        together: all processes call this at once; False: this one alone asks for what is there.

    Raises:
        DataError: an unreadable image beyond those allowed (it is named), features that are not finite.
        StorageError: no room or right to write; the shards finished so far are kept.
    """
    return extract_views(net, split, {transform: specs}, cache=cache, how=how, together=together)[transform]


def extract_views(
    net: FeatureNet[Spec],
    split: Split,
    views: Mapping[Transform, Sequence[Spec]],
    *,
    cache: Path,
    how: Extraction | None = None,
    together: bool = True,
) -> dict[Transform, dict[Spec, Features]]:
    """As `extract`, for several transforms: each image is decoded once for all of them, and cropped for each."""
    how = how or Extraction()
    checks.check_images(split, how.skip_bad_images)
    entries = {
        (transform, spec): Entry(root=cache, key=key_of(net, split, transform, spec))
        for transform, specs in views.items()
        for spec in specs
    }
    done = [e.ready() if distributed.is_main() else e.done() for e in entries.values()]
    if together:  # another run may finish an entry between the look of one process and that of the next
        done = list(distributed.broadcast_object(done))  # type: ignore[call-overload]
    missing = {made: entry for (made, entry), ready in zip(entries.items(), done, strict=True) if not ready}
    if missing:
        if not together and distributed.world_size() > 1:
            for entry in missing.values():
                if entry.damaged.exists():
                    do = "run the same command again: they are made anew"
                    raise StorageError(wanted="the features just made", got="damaged ones", where=entry.damaged, do=do)
            names = [spec.text() for _, spec in missing]
            raise RuntimeError(f"features {names} were not prepared: extracts did not name them")
        passes.fill(passes.Job(net=net, split=split, how=how, cache=cache), missing)
    found: dict[Transform, dict[Spec, Features]] = {transform: {} for transform in views}
    for (transform, spec), entry in entries.items():
        found[transform][spec] = stored(entry, split, how.skip_bad_images)
    return found


def stored(entry: Entry, split: Split, allowed: int) -> Features:
    """The features of a finished entry. Raises: StorageError: it is damaged. DataError: it lacks too many images."""
    features = entry.read(split)
    checks.check_unreadable(split, features.skipped, allowed)
    return features
