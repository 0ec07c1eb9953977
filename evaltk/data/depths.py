"""Gray images of more than 8 bits, transparency and colour profiles: what a viewer makes of them, as 8 bits."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

STRIP = 1 << 20  # pixels scaled at a time
BITS, PHOTOMETRIC = 258, 262  # TIFF tags
WHITE_IS_ZERO = 0
LARGEST_PROFILE = 1 << 24  # bytes


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
    return Image.fromarray(out)


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


def on_white(image: Image.Image) -> Image.Image:
    """An 8-bit image of any mode as RGB in sRGB, transparent parts on white. Raises: ValueError: no such conversion."""
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if not has_alpha or (image.mode == "L" and isinstance(image.info.get("transparency"), tuple)):
        return _in_srgb(image)
    if image.mode == "La":
        image = image.convert("LA")
    layered = image.convert("RGBA")
    ground = Image.new("RGB", image.size, (255, 255, 255))
    opaque = layered.convert("RGB")
    if image.mode in ("RGBA", "RGB", "RGBa") and (profile := image.info.get("icc_profile")):
        opaque.info["icc_profile"] = profile
        opaque = _in_srgb(opaque)
    ground.paste(opaque, mask=layered.getchannel("A"))
    return ground


def _in_srgb(image: Image.Image) -> Image.Image:
    """RGB by the image's colour profile, if it has one that fits; a profile that does not is ignored, as viewers do."""
    profile = image.info.get("icc_profile")
    if not profile or len(profile) > LARGEST_PROFILE or image.mode not in ("RGB", "CMYK", "L"):
        return image.convert("RGB")
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in (source.profile.profile_description or "").lower():
            return image.convert("RGB")
        target = ImageCms.createProfile("sRGB")
        made = ImageCms.profileToProfile(image, source, target, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB")
    except ImportError as error:
        raise ValueError("a colour profile, and a Pillow without LittleCMS: --show as-reference") from error
    except (OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return image.convert("RGB")
    return made if made is not None else image.convert("RGB")
