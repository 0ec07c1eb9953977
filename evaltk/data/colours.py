"""Colours in sRGB: what an image's colour profile, or a PNG's gamma, makes of its values, as a viewer shows them."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

SAID = ("icc_profile", "gamma", "srgb")  # what Pillow's `info` holds on an image's colours
LARGEST_PROFILE = 1 << 24  # bytes
MODES = ("RGB", "CMYK", "L")  # that a profile may be of
PROBE = ((64, 64, 64), (128, 128, 128), (192, 192, 192), (64, 160, 64), (160, 64, 64), (64, 64, 160))
CLOSE = 8  # levels by which a profile called sRGB may move these colours
USUAL, APART = 1 / 2.2, 0.05  # PNG's gamma of sRGB values, and the relative difference that libpng takes for none


def in_srgb(image: Image.Image) -> Image.Image:
    """An opaque 8-bit image as RGB by its colour profile, else its gamma, if it has one that fits.

    A profile that does not is ignored, as viewers do.
    """
    if image.mode not in MODES:
        image = image.convert("RGB")
    profile = image.info.get("icc_profile")
    if not profile or len(profile) > LARGEST_PROFILE:
        return _by_gamma(image)
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in (source.profile.profile_description or "").lower() and _keeps_colours(profile):
            return image.convert("RGB")
        target = ImageCms.createProfile("sRGB")
        made = ImageCms.profileToProfile(image, source, target, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB")
    except ImportError as error:
        raise ValueError("a colour profile, and a Pillow without LittleCMS: --show as-reference") from error
    except (OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return image.convert("RGB")
    return made if made is not None else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _keeps_colours(profile: bytes) -> bool:
    """Whether a profile is what its name says: sRGB's linear and wide relatives, which move colours, are called so too.

    True of a profile that is not of RGB: it has no such relatives.
    """
    from PIL import ImageCms

    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    probe = np.array([PROBE], dtype=np.uint8)
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    try:
        made = ImageCms.profileToProfile(Image.fromarray(probe), source, target, intent, outputMode="RGB")
    except ImageCms.PyCMSError:
        return True
    return made is None or int(np.abs(np.asarray(made).astype(int) - probe).max()) <= CLOSE


def _by_gamma(image: Image.Image) -> Image.Image:
    """The image as RGB: linear light is value ** (1 / gamma) (PNG specification, 11.3.2.2), and then sRGB's curve."""
    gamma = image.info.get("gamma")
    if not isinstance(gamma, float) or gamma <= 0 or "srgb" in image.info or image.mode == "CMYK":
        return image.convert("RGB")
    if abs(gamma / USUAL - 1) <= APART:
        return image.convert("RGB")
    light = (np.arange(256) / 255) ** (1 / gamma)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    table = np.floor(curve * 255 + 0.5).astype(int).tolist()
    return image.point(table * len(image.getbands())).convert("RGB")
