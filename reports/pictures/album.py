"""Photographs of a page: each is stored once, as a symbol that any number of drawings use, within a limit of bytes."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from PIL import Image

BYTES = 3_500_000  # of all photographs of a page
STEPS = ((512, 88), (384, 82), (288, 75), (192, 70), (128, 60), (64, 50))  # (longest side, JPEG quality), tried in turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A photograph that drawings name: id of its symbol, width and height in pixels."""

    symbol: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Album:
    """Photographs in the order in which they were added."""

    kept: dict[str, tuple[Photo, np.ndarray]] = field(default_factory=dict)

    def add(self, pixels: np.ndarray) -> Photo:
        """The photograph of pixels uint8 [H, W, 3]; equal ones are the same."""
        key = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
        if key not in self.kept:
            photo = Photo(symbol=f"p{len(self.kept)}", width=pixels.shape[1], height=pixels.shape[0])
            self.kept[key] = photo, pixels
        return self.kept[key][0]

    def symbols(self, limit: int = BYTES) -> Markup:
        """All photographs as SVG symbols, as large and as good as fit into `limit` bytes together."""
        uris: list[str] = []
        for side, quality in STEPS:
            uris = [jpeg(pixels, side, quality) for _, pixels in self.kept.values()]
            if sum(map(len, uris)) <= limit:
                break
        made = (
            f'<symbol id="{photo.symbol}" viewBox="0 0 {photo.width} {photo.height}" preserveAspectRatio="none">'
            f'<image href="{uri}" width="{photo.width}" height="{photo.height}" preserveAspectRatio="none"/></symbol>'
            for (photo, _), uri in zip(self.kept.values(), uris, strict=True)
        )
        return Markup("".join(made))


def jpeg(pixels: np.ndarray, side: int, quality: int) -> str:
    """A data URI of pixels uint8 [H, W, 3], the longer side at most `side`; small images stay exact, as PNG."""
    image = Image.fromarray(pixels)
    if max(image.size) > side:
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    small = max(image.size) <= 64 and quality > 80
    image.save(buffer, **({"format": "PNG"} if small else {"format": "JPEG", "quality": quality}))
    return f"data:image/{'png' if small else 'jpeg'};base64," + base64.b64encode(buffer.getvalue()).decode()


def png(pixels: np.ndarray) -> str:
    """A data URI of uint8 [H, W, 3] or, with transparency, [H, W, 4]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def heat(values: np.ndarray) -> str:
    """A data URI of a map [h, w] from its smallest (dark) to its largest value (bright), one pixel per patch."""
    low, high = float(values.min()), float(values.max())
    level = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return _palette(np.rint(level * 255).astype(np.uint8), _viridis())


def outside(kept: np.ndarray) -> str:
    """A data URI of a veil over the patches that are not kept, bool [h, w]; the others stay clear."""
    veil = np.zeros((*kept.shape, 4), dtype=np.uint8)
    veil[~kept] = (20, 24, 40, 205)
    return png(veil)


def _palette(levels: np.ndarray, colours: bytes) -> str:
    image = Image.fromarray(levels)
    image.putpalette(colours)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _viridis() -> bytes:
    import matplotlib

    colours = matplotlib.colormaps["viridis"](np.arange(256))[:, :3]
    return np.rint(colours * 255).astype(np.uint8).tobytes()
