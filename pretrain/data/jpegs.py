"""JPEG files decoded where the views are made: by nvJPEG on a GPU, by torchvision's decoder elsewhere.

Workers read the bytes and the header. Whatever decoders may disagree about, and whatever is no JPEG, is left to Pillow,
which also takes over where the device's decoder fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaltk.data import decoding
from evaltk.data.decoding import Reading
from evaltk.errors import DataError
from pretrain import card

BEGIN, END = b"\xff\xd8\xff", b"\xff\xd9"
TAIL = 16  # bytes at the end among which the end marker must be; else the file may be cut off
RGB_IDS = {82, 71, 66}  # "R", "G", "B": ids of components that are not YCbCr
ANY_SIZE = Reading(max_pixels=decoding.LARGEST)  # whether it may be so large was asked when its header was read
LEFT_TO_PILLOW = "read by workers instead: --set views.decode=workers"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Jpeg:
    """The bytes of a JPEG file. size: (width, height), as its header says."""

    data: bytes
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """The JPEG files of a batch, one after the other: a tensor each would take a file handle each between processes.

    Attributes:
        data: uint8 [all bytes]. ends: of each file in it. rows: their images' in the batch. names: their ids.
        shape: of the batch's canvas, [B, 3, H, W].
    """

    data: Tensor
    ends: tuple[int, ...]
    rows: tuple[int, ...]
    names: tuple[str, ...]
    shape: tuple[int, int, int, int]

    def files(self) -> list[Tensor]:
        """The bytes of each file, uint8 [n]."""
        return [self.data[a:b] for a, b in zip((0, *self.ends), self.ends, strict=False)]


def plain(data: bytes, reading: Reading) -> Jpeg | None:
    """A JPEG that all decoders show alike; None: another format, CMYK, stored RGB, turned, with a profile, cut off."""
    if not data.startswith(BEGIN) or END not in data[-TAIL:]:
        return None
    try:
        with decoding.opened(data, reading.max_pixels) as image:
            ids = {layer[0] for layer in getattr(image, "layer", ())}
            unlike = image.mode not in ("RGB", "L") or ids == RGB_IDS or image.info.get("adobe_transform", 1) != 1
            shown = reading.show == "as-shown" and (decoding.is_turned(image) or "icc_profile" in image.info)
            if image.format != "JPEG" or unlike or shown:
                return None
            return Jpeg(data=data, size=image.size)
    except Exception:  # noqa: BLE001 (Pillow raises nearly anything on damaged bytes; it is asked again, and tells)
        return None


def together(files: Sequence[tuple[int, str, Jpeg]], shape: tuple[int, int, int, int]) -> Encoded | None:
    """(row, name, file) of the images of a batch that are still encoded; None where there are none."""
    if not files:
        return None
    return Encoded(
        data=torch.from_numpy(np.frombuffer(b"".join(jpeg.data for *_, jpeg in files), dtype=np.uint8).copy()),
        ends=tuple(np.cumsum([len(jpeg.data) for *_, jpeg in files]).tolist()),
        rows=tuple(row for row, *_ in files),
        names=tuple(name for _, name, _ in files),
        shape=shape,
    )


def on_canvas(canvas: Tensor | None, encoded: Encoded, device: torch.device) -> Tensor:
    """The canvas with all images of the batch, on the device: uint8 [B, 3, H, W], each in its upper left corner.

    Args: canvas: with the images that were decoded already; None where there are none.

    Raises: DataError: an image that neither the device's decoder nor Pillow can decode.
    """
    made = torch.zeros(encoded.shape, dtype=torch.uint8, device=device) if canvas is None else canvas.to(device)
    for row, pixels in zip(encoded.rows, decoded(encoded, device), strict=True):
        made[row, :, : pixels.shape[1], : pixels.shape[2]] = pixels
    return made


def decoded(encoded: Encoded, device: torch.device) -> list[Tensor]:
    """The images, uint8 [3, h, w] each, on the device. Raises: as `on_canvas`."""
    from torchvision.io import ImageReadMode, decode_jpeg

    files = encoded.files()
    try:
        if card.is_card(device):
            on_card: list[Tensor] = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
            return on_card
        return [decode_jpeg(file, mode=ImageReadMode.RGB).to(device) for file in files]
    except RuntimeError:  # one damaged file fails the whole call
        pairs = zip(files, encoded.names, strict=True)
        return [torch.from_numpy(_by_pillow(file, name)).permute(2, 0, 1).to(device) for file, name in pairs]


def _by_pillow(file: Tensor, name: str) -> np.ndarray:
    try:
        return np.array(decoding.rgb(file.numpy().tobytes(), ANY_SIZE, where=name))
    except DataError as error:
        raise DataError(wanted=error.wanted, got=error.got, where=name, do=LEFT_TO_PILLOW) from error
