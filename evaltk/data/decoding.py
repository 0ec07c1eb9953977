"""Image files as 8-bit RGB. Every image of the project is opened here, in one of a closed list of formats."""

from __future__ import annotations

import functools
import io
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

from PIL import Image

from evaltk.data import depths
from evaltk.errors import DataError, SettingsError

# What Pillow decodes by itself. Left to its own devices it tells formats by content, and starts Ghostscript on EPS.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")
MAX_PIXELS = 178_956_970  # Pillow's own limit: 4 bytes a pixel, 683 MiB
LARGEST = 1_000_000_000  # pixels that --max-pixels may allow: 3.7 GiB
Show: TypeAlias = Literal["as-reference", "as-shown"]
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How files begin that are called .jpg and are none: what to say of them.
OTHERS = (
    (b"%!PS", "a PostScript file (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file (EPS)"),
    (b"%PDF", "a PDF"),
    (b"8BPS", "a Photoshop file"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file (SVG?)"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"\x00\x05\x16\x07", "a macOS companion file, which holds no image"),
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
    (b"PK\x03\x04", "a zip file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\xff\x0a", "a JPEG XL image, which Pillow cannot read: convert it"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image, which Pillow cannot read: convert it"),
    (b"\x01\x00\x00\x00", "a Windows metafile"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"II*\x00", "a damaged TIFF, or one of pixels that Pillow cannot read: save it at 8 or 16 bits"),
    (b"MM\x00*", "a damaged TIFF, or one of pixels that Pillow cannot read: save it at 8 or 16 bits"),
    (b"II+\x00", "a damaged TIFF, or one of pixels that Pillow cannot read: save it at 8 or 16 bits"),
    (b"MM\x00+", "a damaged TIFF, or one of pixels that Pillow cannot read: save it at 8 or 16 bits"),
    (b"\x89PNG", "a damaged PNG"),
    (b"\xff\xd8\xff", "a damaged JPEG"),
)
BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF", b"avis": "AVIF"}
_LIMIT = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How image files become pixels.

    Attributes:
        show: ``as-reference``: as torchvision's ImageFolder reads them, by Pillow's ``convert("RGB")``: EXIF
            orientation, transparency and colour profiles are ignored. ``as-shown``: as a viewer shows them: turned,
            on white, in sRGB, and gray ones of more than 8 bits scaled to 8.
        max_pixels: of an image; a file may claim more than fit into memory.

    Raises: SettingsError: a limit out of range.
    """

    show: Show = "as-reference"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= LARGEST:
            wanted, where = f"1 to {LARGEST:,} pixels", "--max-pixels"
            raise SettingsError(wanted=wanted, got=f"{self.max_pixels:,}", where=where, do="resize larger images")

    def text(self) -> str:
        """All that pixels depend on; "" for the reading of published datasets, whose fingerprints are older."""
        parts = [f"{self.show} 2"] if self.show != "as-reference" else []  # 1: of before 2026-11-26, without gamma
        return " ".join(parts + ([f"max-pixels {self.max_pixels}"] if self.max_pixels != MAX_PIXELS else []))


REFERENCE, SHOWN = Reading(), Reading(show="as-shown")


def undecodable(got: str, where: object) -> DataError:
    """The error for an image that cannot be decoded."""
    return DataError(
        wanted="an image that can be decoded",
        got=got,
        where=where,
        do="replace the file if it is damaged, or allow some to be left out with --skip-bad-images N",
    )


def rgb(source: Path | bytes, reading: Reading = REFERENCE, *, where: object = None) -> Image.Image:
    """The image in a file, or in its bytes, as 8-bit RGB; of several frames the first.

    Args:
        where: what errors name; None: the file.

    Raises: DataError: it cannot be decoded, is too large, or of a depth whose white nothing tells.
    """
    try:
        with opened(source, reading.max_pixels) as image:
            return as_rgb(image, reading.show)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise undecodable(_told(source, error), source if where is None else where) from error


def as_rgb(image: Image.Image, show: Show) -> Image.Image:
    """An image of any mode as 8-bit RGB. Raises: ValueError: a mode or depth that has no right RGB (see `Reading`)."""
    depths.check_sound(image)
    deep = depths.is_deep(image)
    if show == "as-reference":
        if deep:  # Pillow clips these at 255: white, or black
            got = f"gray values of mode {image.mode}, which torchvision clips at 255"
            raise ValueError(f"{got}: convert them to 8 bits, or read your own images with --show as-shown")
        return image.convert("RGB")
    clear = depths.transparent(image)  # which nothing tells of a decoded image
    image.load()
    turn = TURNS.get(_orientation(image))
    shown = depths.scaled(image) if deep else image
    flat = depths.on_white(shown, clear)
    return flat if turn is None else flat.transpose(turn)


@contextmanager
def opened(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The image of a file or of its bytes, not decoded yet.

    Raises: OSError, ValueError: no image of `FORMATS`, or a larger one. Pillow raises nearly anything on damaged bytes.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream, _opened(stream, max_pixels) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ValueError(_too_large(width * height, max_pixels))
        yield image


def _opened(stream: BinaryIO, max_pixels: int) -> Image.Image:
    if max_pixels <= MAX_PIXELS:
        return Image.open(stream, formats=_formats())
    with _LIMIT:  # Pillow's own limit is one for the whole process, so it is put back
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(stream, formats=_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = before


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # older Pillows have no AVIF


def is_turned(image: Image.Image) -> bool:
    """Whether a viewer shows it otherwise than it lies."""
    return _orientation(image) in TURNS


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1  # damaged metadata of a sound image; viewers show it as it lies


def _too_large(pixels: int, limit: int) -> str:
    do = f"allow it with --max-pixels {pixels}" if pixels <= LARGEST else "resize it"
    return f"a large image: {pixels:,} pixels, the limit is {limit:,}: {do}"


def _told(source: Path | bytes, error: Exception) -> str:
    """What is wrong, in words."""
    try:
        if isinstance(source, bytes):
            head, size = source[:32], len(source)
        else:
            with source.open("rb") as stream:
                head, size = stream.read(32), source.stat().st_size
    except OSError:
        head, size = b"", -1
    if size == 0:
        return "an empty file"
    if isinstance(error, Image.DecompressionBombError):
        try:
            with opened(source, LARGEST) as image:
                return _too_large(image.width * image.height, MAX_PIXELS)
        except (OSError, ValueError):  # larger than may be allowed, or damaged too
            return _too_large(LARGEST + 1, MAX_PIXELS).replace(f"{LARGEST + 1:,}", f"over {LARGEST:,}")
    if isinstance(error, Image.UnidentifiedImageError):
        return _named(head)
    if isinstance(error, ValueError) and type(error) is ValueError:
        return str(error)
    return f"{type(error).__name__}: {error}"


def _named(head: bytes) -> str:
    brand = BRANDS.get(head[8:12], "") if head[4:8] == b"ftyp" else ""
    what = next((what for begin, what in OTHERS if head.startswith(begin)), "")
    if brand:
        what = f"{brand}, which this Pillow cannot read: convert it"
    return what or f"no image of a known format ({', '.join(_formats())})"
