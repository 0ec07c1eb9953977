"""Gray images of more than 8 bits, and transparency: what a viewer makes of them, as 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

from evaltk.data import colours

STRIP = 1 << 20  # pixels scaled at a time
BITS, COMPRESSION, PHOTOMETRIC, PLANAR, SAMPLES = 258, 259, 262, 284, 339  # TIFF tags
WHITE_IS_ZERO, RAW, APART, SIGNED = 0, 1, 2, 2  # their values
SHALLOW = {"L;2": 85, "L;4": 17}  # PNG's gray of 2 and 4 bits: what a step is at 8


def check_sound(image: Image.Image) -> None:
    """Check that Pillow decodes an undecoded TIFF rightly. Raises: ValueError: one of those that it mixes up."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return
    bits = tags.get(BITS, (8,))
    deep = max(bits if isinstance(bits, tuple) else (bits,)) > 8
    if tags.get(PLANAR) == APART and (image.mode == "LA" or (deep and tags.get(COMPRESSION, RAW) == RAW)):
        raise ValueError("channels stored apart, which Pillow mixes up at this depth: save them interleaved")
    if image.mode == "L" and SIGNED in tags.get(SAMPLES, ()):
        raise ValueError("integers with a sign, of which nothing tells what is white: save them without")


def is_deep(image: Image.Image) -> bool:
    """Whether its gray values do not fit into 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def scaled(image: Image.Image) -> Image.Image:
    """A gray image of more bits as 8-bit gray (L): 0 to white of its depth becomes 0 to 255, to the nearest.

    White is 65535 at 16 bits (a TIFF may have fewer, such as 12) and 1 of floating-point values.

    Raises: ValueError: integers of 32 bits or with a sign, or floating-point values outside of 0 to 1.
    """
    white = _white(image)
    tags = getattr(image, "tag_v2", {})
    inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO  # Pillow inverts 8 bits, but no more
    clear = image.info.get("transparency")
    width, height = image.size
    out = np.empty((height, width), dtype=np.uint8)
    rows = max(1, STRIP // max(1, width))
    for top in range(0, height, rows):
        values = np.asarray(image.crop((0, top, width, min(top + rows, height))))
        if white == 1.0:
            low, high = float(values.min()), float(values.max())
            if not (low >= 0 and high <= 1):  # NaN too
                got = f"floating-point values from {low:.4g} to {high:.4g}"
                raise ValueError(f"{got}, of which nothing tells what is white: scale them to 0 to 1, or to 8 bits")
            part = np.floor(values.astype(np.float64) * 255 + 0.5).astype(np.uint8)
        else:
            whole = values.astype(np.int64)
            if whole.min() < 0 or whole.max() > white:
                raise ValueError(f"values from {whole.min()} to {whole.max()}, outside of 0 to {white:.0f}")
            part = ((whole * 255 + int(white) // 2) // int(white)).astype(np.uint8)
        if inverted:
            part = 255 - part
        if isinstance(clear, int):
            part[values == clear] = 255
        out[top : top + rows] = part
    made = Image.fromarray(out)
    made.info = {key: value for key, value in image.info.items() if key in colours.SAID}
    return made


def _white(image: Image.Image) -> float:
    if image.mode == "F":
        return 1.0
    tags = getattr(image, "tag_v2", None)
    if image.mode.startswith("I;16"):
        bits = tags.get(BITS, (16,)) if tags is not None else (16,)
        return float((1 << int(bits[0] if isinstance(bits, tuple) else bits)) - 1)
    if tags is None:  # Pillow widens 16-bit PNG and PGM to mode I
        return 65535.0
    raise ValueError("integers of 32 bits or with a sign, of which nothing tells what is white: save them at 8 or 16")


def transparent(image: Image.Image) -> int | tuple[int, ...] | None:
    """The transparent value of an undecoded PNG at 8 bits where Pillow leaves it at the file's depth, else None."""
    value, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    raw = tiles[0][3] if tiles else None
    if isinstance(value, int) and raw in SHALLOW and value * SHALLOW[raw] <= 255:
        return value * SHALLOW[raw]
    if isinstance(value, tuple) and raw == "RGB;16B":
        return tuple(part >> 8 for part in value)
    return None


def on_white(image: Image.Image, clear: int | tuple[int, ...] | None = None) -> Image.Image:
    """An 8-bit image of any mode as RGB in sRGB, transparent parts on white.

    Args:
        clear: the transparent value; None: what the image says.

    Raises: ValueError: no such conversion.
    """
    if clear is not None:
        image = image.copy()
        image.info["transparency"] = clear
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if not has_alpha or (image.mode == "L" and isinstance(image.info.get("transparency"), tuple)):
        return colours.in_srgb(image)
    if image.mode == "La":
        image = image.convert("LA")
    layered = image.convert("RGBA")
    ground = Image.new("RGB", image.size, (255, 255, 255))
    opaque = image.convert("L") if image.mode in ("L", "LA") else layered.convert("RGB")
    opaque.info = {key: value for key, value in image.info.items() if key in colours.SAID}
    ground.paste(colours.in_srgb(opaque), mask=layered.getchannel("A"))
    return ground
