"""Nearest images of notable prototypes: the largest, sharpest, broadest and purest."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from evaltk.data.images import Split
from evaltk.models.heads import Head
from evaltk.prototypes.duplicates import DuplicateSets
from evaltk.prototypes.mixture_fit import Fit, nearest_images
from evaltk.types import Features
from protocols.prototypes.settings import Settings, varies

PROTOTYPES = 4  # of each kind
SIDE = 64  # of a thumbnail in pixels


def gallery(
    split: Split,
    features: Features,
    head: Head,
    fit: Fit,
    arrays: dict[str, np.ndarray],
    sets: DuplicateSets,
    settings: Settings,
) -> dict[str, np.ndarray]:
    """Arrays of G prototypes: which, of what kind, their nearest images' cosines and thumbnails [G, M, 64, 64, 3]."""
    chosen = choose(fit.counts, arrays["kappa"], arrays["purity"], sets.owner, settings.min_images)
    if not chosen:
        return {}
    which = np.array([prototype for _, prototype in chosen])
    cosine, index = nearest_images(head, features.x, which, settings.gallery)
    kept = _kept(split, features)
    shown = np.stack([np.stack([_thumbnail(split, int(kept[i])) for i in row]) for row in index])
    return {
        "gallery_kind": np.array([kind for kind, _ in chosen]),
        "gallery_prototype": which,
        "gallery_cosine": cosine.astype("float32"),
        "gallery_images": shown,
    }


def choose(
    counts: np.ndarray, kappa: np.ndarray, purity: np.ndarray, owner: np.ndarray, min_images: int
) -> list[tuple[str, int]]:
    """(kind, prototype) of notable prototypes with enough images, one per set of duplicates.

    Sharpest and broadest are omitted if all precisions are equal.
    """
    enough = np.flatnonzero(counts >= min_images)
    if not len(enough):
        enough = np.flatnonzero(counts > 0)
    orders = {"largest": -counts[enough]}
    if varies(kappa[enough]):
        orders |= {"sharpest": -kappa[enough], "broadest": kappa[enough]}
    # Ties in purity go to the prototype with more images.
    orders["purest"] = -(purity[enough] + counts[enough] / (1e3 * counts.max()))
    chosen: list[tuple[str, int]] = []
    for kind, key in orders.items():
        seen: set[int] = set()
        for prototype in enough[np.argsort(key, kind="stable")].tolist():
            if len(seen) < PROTOTYPES and int(owner[prototype]) not in seen:
                seen.add(int(owner[prototype]))
                chosen.append((kind, prototype))
    return chosen


def _kept(split: Split, features: Features) -> np.ndarray:
    """The place in the split of each row of the features: unreadable images were left out."""
    lost = set(features.skipped)
    return np.array([i for i in range(len(split)) if not lost or split.image_id(i) not in lost])


def _thumbnail(split: Split, index: int) -> np.ndarray:
    """[64, 64, 3] uint8, the middle square."""
    image = split.open(index)
    small = min(image.size) < SIDE
    return np.asarray(
        ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC)
    )
