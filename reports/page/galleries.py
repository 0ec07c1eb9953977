"""The images nearest to prototypes that stand out, inside the page: one strip per prototype, within a size limit."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from reports.table import percent

PAGE_BYTES = 10_000_000  # of all galleries of a page
CHECKPOINT_BYTES = 500_000
QUALITIES = (90, 75, 55)  # JPEG; tried in this order
GALLERY_ARRAYS = ("gallery_kind", "gallery_prototype", "gallery_cosine", "gallery_images", "counts", "kappa", "purity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """A prototype: kind, facts about it, its nearest images side by side as a data URI, and these in words.

    `width`, `height` of the strip in pixels.
    """

    kind: str
    facts: str
    uri: str
    words: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """A checkpoint's prototypes. `shown`: how many of the nearest images, if not all."""

    title: str
    strips: tuple[Strip, ...]
    shown: str


def build_gallery(title: str, arrays: Mapping[str, np.ndarray], share: int) -> Gallery | None:
    """A result's gallery in at most `share` bytes; None if there is none or it does not fit.

    Where the images do not fit, their quality is lowered first, then fewer of the nearest are shown.
    """
    if any(name not in arrays for name in GALLERY_ARRAYS):
        return None
    images = arrays["gallery_images"]
    if images.ndim != 5 or images.dtype != np.uint8 or not len(images) or not images.shape[1]:
        return None
    once = _once(arrays)
    number = images.shape[1]
    while number:
        for quality in QUALITIES:
            if len(_uri(images[0, :number], quality)) * len(once) > 1.2 * share:
                continue  # clearly too large
            uris = {g: _uri(images[g, :number], quality) for g in once}
            if sum(map(len, uris.values())) <= share:
                shown = f"{number} of the {images.shape[1]} nearest images" if number < images.shape[1] else ""
                strips = (_strip(arrays, g, number, uri, once[g]) for g, uri in uris.items())
                return Gallery(title=title, strips=tuple(strips), shown=shown)
        number //= 2
    return None


def gallery_fault(arrays: Mapping[str, np.ndarray]) -> str:
    """What is wrong with a gallery's arrays: one that is missing or of another kind or size; empty for none."""
    if missing := [name for name in GALLERY_ARRAYS if name not in arrays]:
        return f"no {missing[0]}"
    images, which = arrays["gallery_images"], arrays["gallery_prototype"]
    if images.ndim != 5 or images.dtype != np.uint8 or images.shape[-1:] != (3,):
        return f"images {images.dtype} {list(images.shape)}"
    groups, number = images.shape[:2]
    shapes = {"gallery_kind": (groups,), "gallery_prototype": (groups,), "gallery_cosine": (groups, number)}
    if odd := [name for name, shape in shapes.items() if arrays[name].shape != shape]:
        return f"{odd[0]} {list(arrays[odd[0]].shape)} beside {groups} x {number} images"
    numeric = ("gallery_prototype", "gallery_cosine", "counts", "kappa", "purity")
    if odd := [name for name in numeric if arrays[name].dtype.kind not in "iuf"]:
        return f"{odd[0]} of {arrays[odd[0]].dtype}"
    if which.dtype.kind not in "iu":
        return f"gallery_prototype of {which.dtype}"
    each = [name for name in ("counts", "kappa", "purity") if arrays[name].ndim != 1]
    least = min((len(arrays[name]) for name in ("counts", "kappa", "purity") if not each), default=0)
    if each or (which.size and not 0 <= which.min() <= which.max() < least):
        return f"prototypes up to {which.max(initial=0)} of {least}"
    finite = ("gallery_cosine", "counts", "kappa")  # a prototype without images has no purity
    if odd := [name for name in finite if not np.isfinite(arrays[name]).all()]:
        return f"NaN or infinity in {odd[0]}"
    return ""


def bytes_per_gallery(page: Sequence[object]) -> int:
    """Bytes that each of the page's galleries may take."""
    return min(CHECKPOINT_BYTES, PAGE_BYTES // max(1, len(page)))


def _uri(row: np.ndarray, quality: int) -> str:
    """Images [M, H, W, 3] uint8 side by side."""
    strip = np.concatenate(list(row), axis=1)
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, format="JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _once(arrays: Mapping[str, np.ndarray]) -> dict[int, str]:
    """{first row of a prototype: all that it is shown for, ``largest, purest``}, in order of the rows."""
    rows: dict[int, int] = {}
    kinds: dict[int, list[str]] = {}
    for g, (prototype, kind) in enumerate(zip(arrays["gallery_prototype"], arrays["gallery_kind"], strict=True)):
        first = rows.setdefault(int(prototype), g)
        kinds.setdefault(first, []).append(str(kind))
    return {first: ", ".join(dict.fromkeys(names)) for first, names in kinds.items()}


def _strip(arrays: Mapping[str, np.ndarray], g: int, number: int, uri: str, kind: str) -> Strip:
    prototype = int(arrays["gallery_prototype"][g])
    cosine = arrays["gallery_cosine"][g][:number]
    purity = float(arrays["purity"][prototype])
    facts = [f"{int(arrays['counts'][prototype]):,} images", f"κ {float(arrays['kappa'][prototype]):.3g}"]
    facts += [f"purity {percent(purity):.0f} %"] if np.isfinite(purity) else []
    facts += [f"cosines {cosine.max():.2f} to {cosine.min():.2f}"]
    height, width = arrays["gallery_images"].shape[2:4]
    return Strip(
        kind=kind,
        facts=f"prototype {prototype:,}: {', '.join(facts)}",
        uri=uri,
        words=f"The {number} nearest images to prototype {prototype:,} ({kind}), nearest first",
        width=int(width) * number,
        height=int(height),
    )
