"""Video frames and index masks: read, resized as the reference does, written with the usual palette."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from evaltk import files
from evaltk.data import decoding
from evaltk.errors import DataError

Frame: TypeAlias = "str | Path | Image.Image"
COEFFICIENT = 2048  # OpenCV weighs 8-bit pixels by whole 2048ths
VOID = 255  # pixels that belong to nobody
ROUND_TO = 64  # the longer side becomes a multiple of this; dino/eval_video_segmentation.py:205-212


def working_size(width: int, height: int, short: int) -> tuple[int, int]:
    """(width, height) with the shorter side `short` and the longer cut to a multiple of 64: 854 x 480 -> 832 x 480."""
    if height > width:
        return short, int(short * height / width // ROUND_TO * ROUND_TO)
    return int(short * width / height // ROUND_TO * ROUND_TO), short


def open_frame(frame: Frame) -> Image.Image:
    """The frame as RGB. Raises: DataError: the file cannot be decoded."""
    if isinstance(frame, Image.Image):
        return frame.convert("RGB")
    try:
        return decoding.rgb(Path(frame))
    except DataError as error:
        raise _undecodable(frame, error.got) from error


def frame_size(frame: Frame) -> tuple[int, int]:
    """(width, height), without decoding the pixels. Raises: DataError: no image."""
    if isinstance(frame, Image.Image):
        return frame.size
    try:
        with decoding.opened(Path(frame)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _undecodable(frame, f"{type(error).__name__}: {error}") from error


def _undecodable(frame: object, got: str) -> DataError:
    return DataError(
        wanted="an image that can be decoded",
        got=got[:200],
        where=frame,
        do="restore the file",
    )


def resize_bilinear(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bilinear resize without antialias in OpenCV's whole-number arithmetic: uint8 [H, W, 3] -> [height, width, 3].

    The same bytes as cv2.resize where the height stays or both sides shrink (all of DAVIS); enlarging, one level of 255
    in a thousandth of the pixels.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    left, right, a, b = _taps(width, pixels.shape[1])
    upper, lower, c, d = (v[:, None, None] if i > 1 else v for i, v in enumerate(_taps(height, pixels.shape[0])))
    whole = pixels.astype(np.int32)
    rows = whole[:, left] * a[:, None] + whole[:, right] * b[:, None]  # [H, width, 3], in 2048ths
    rows >>= 4
    mixed = ((c * rows[upper]) >> 16) + ((d * rows[lower]) >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def _taps(out: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each of `out` samples of `size` pixels: both neighbours and their weights in 2048ths, int32."""
    at = ((np.arange(out) + 0.5) * (size / out) - 0.5).astype(np.float32)
    first = np.floor(at)
    part = (at - first).astype(np.float32)
    part[(first < 0) | (first >= size - 1)] = 0
    first = first.clip(0, size - 1).astype(np.int32)
    weights = (np.rint(w * np.float32(COEFFICIENT)).astype(np.int32) for w in (1 - part, part))
    return (first, np.minimum(first + 1, size - 1), *weights)


def resize_ids(ids: np.ndarray, width: int, height: int) -> np.ndarray:
    """Object ids uint8 [H, W] resized by Pillow's nearest rule."""
    return np.asarray(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))


def read_ids(path: Path) -> np.ndarray:
    """Object ids uint8 [H, W] of an index mask (PNG of mode P, L or 1).

    Raises: DataError: no such file, not decodable, colours or 16-bit values instead of ids.
    """
    try:
        with decoding.opened(path) as image:
            mode = image.mode
            if mode in ("P", "L"):
                return np.array(image, dtype=np.uint8)
            if mode == "1":
                return np.array(image, dtype=np.uint8)
    except FileNotFoundError as error:
        raise DataError(wanted="an index mask", got="no such file", where=path, do="restore the file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _undecodable(path, f"{type(error).__name__}: {error}") from error
    raise DataError(
        wanted="an index mask (mode P or L), whose pixels are object ids",
        got=f"mode {mode}",
        where=path,
        do="save ids with a palette, not colours",
    )


def read_masks(paths: Sequence[Path]) -> np.ndarray:
    """Object ids uint8 [T, H, W]. Raises: DataError: as `read_ids`, and a mask of another size than the first."""
    masks = [read_ids(path) for path in paths]
    for path, mask in zip(paths, masks, strict=True):
        if mask.shape != masks[0].shape:
            height, width = masks[0].shape
            got = f"{mask.shape[1]} x {mask.shape[0]}"
            raise DataError(wanted=f"{width} x {height}, the size of {paths[0].name}", got=got, where=path)
    return np.stack(masks)


def one_object(ids: np.ndarray) -> np.ndarray:
    """Object ids [...] uint8 with all objects as object 1; background and void stay."""
    return np.where((ids > 0) & (ids != VOID), 1, ids).astype(np.uint8)


def palette() -> bytes:
    """The PASCAL VOC palette, 256 colours RGB: bits of the id, three at a time, from the high bit of R, G, B down."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    ids = np.arange(256)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours.tobytes()


def write_ids(path: Path, ids: np.ndarray) -> None:
    """Write object ids uint8 [H, W] as a palette PNG, whole or not at all. Raises: StorageError."""
    image = Image.fromarray(ids)
    image.putpalette(palette())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    files.write(path, lambda stream: stream.write(buffer.getbuffer()))
