"""What image files say of their colours and transparency is followed in every mode; what Pillow mixes up is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from evaltk.data import decoding
from evaltk.data.decoding import REFERENCE, SHOWN
from evaltk.errors import DataError

GRAY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def srgb(light: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, from linear light in [0, 1] to 8 bits."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255


def profile(name: str, space: bytes) -> bytes:
    """An ICC profile of linear light (ICC.1:2001-04): sRGB's primaries, or gray."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    text = name.encode() + b"\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + struct.pack(">IIHB", 0, 0, 0, 0) + b"\0" * 67
    straight = b"curv\0\0\0\0\0\0\0\0"  # a curve without points is the identity
    tags = {b"desc": described, b"wtpt": xyz(0.9642, 1, 0.8249), b"cprt": b"text\0\0\0\0-\0"}
    if space == b"GRAY":
        tags[b"kTRC"] = straight
    else:
        primaries = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7142))
        for letter, values in zip((b"r", b"g", b"b"), primaries, strict=True):
            tags |= {letter + b"XYZ": xyz(*values), letter + b"TRC": straight}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + xyz(0.9642, 1, 0.8249)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def saved(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def png(values: np.ndarray, depth: int, color: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of rows of whole bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = values.shape[:2]
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = ((b"IHDR", head), *extra, (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def shown(data: bytes) -> np.ndarray:
    return np.asarray(decoding.rgb(data, SHOWN, where="here")).astype(int)


def whole(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.floor(values + 0.5)[..., None], 3, axis=-1)


@pytest.mark.parametrize("name", ["linear light", "sRGB-elle-V2-g10.icc"])
def test_profiles_are_followed_in_every_mode_whatever_they_are_called(name: str) -> None:
    right, colours = whole(srgb(GRAY / 255)), {"icc_profile": profile(name, b"RGB ")}
    gray = Image.fromarray(GRAY)
    rgb, palette = gray.convert("RGB"), gray.convert("P")
    for image in (rgb, palette, gray.convert("RGBA")):
        assert np.abs(shown(saved(image, **colours)) - right).max() <= 1, image.mode
    if name == "linear light":
        lights = {"icc_profile": profile(name, b"GRAY")}
        for image in (gray, gray.convert("LA"), Image.fromarray(GRAY.astype(np.uint16) * 257)):
            off = np.abs(shown(saved(image, **lights)) - right)
            assert off[1:].max() <= 1, image.mode  # LittleCMS interpolates the steep start of the curve


def test_a_profile_that_is_srgb_leaves_values_as_they_are() -> None:
    told = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(shown(saved(Image.fromarray(GRAY).convert("RGB"), icc_profile=told)), whole(GRAY))


def test_gamma_of_a_png_is_followed_where_nothing_else_tells_its_colours() -> None:
    linear = (b"gAMA", struct.pack(">I", 100_000))
    assert np.array_equal(shown(png(GRAY, 8, 0, linear)), whole(srgb(GRAY / 255)))
    colour = np.repeat(GRAY[..., None], 3, axis=-1)
    assert np.array_equal(shown(png(colour, 8, 2, linear)), whole(srgb(GRAY / 255)))
    for usual in ((b"gAMA", struct.pack(">I", 45_455)), (b"gAMA", struct.pack(">I", 46_000))):
        assert np.array_equal(shown(png(GRAY, 8, 0, usual)), whole(GRAY))
    assert np.array_equal(shown(png(GRAY, 8, 0, (b"sRGB", b"\0"), linear)), whole(GRAY))
    reference = np.asarray(decoding.rgb(png(GRAY, 8, 0, linear), REFERENCE))
    assert np.array_equal(reference, whole(GRAY))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_transparent_value_of_shallow_gray_lies_on_white(depth: int) -> None:
    values = GRAY >> (8 - depth)
    right = np.where(values == 1, 255, values * (255 // (2**depth - 1)))
    data = png(values, depth, 0, (b"tRNS", struct.pack(">H", 1)))
    assert np.array_equal(shown(data), whole(right))


def test_the_transparent_colour_of_16_bits_lies_on_white() -> None:
    values = np.repeat(GRAY[..., None].astype(np.uint16) * 257, 3, axis=-1)
    values[:2] = 1000, 2000, 60000
    data = png(values, 16, 2, (b"tRNS", struct.pack(">HHH", 1000, 2000, 60000)))
    right = whole(GRAY)
    right[:2] = 255
    assert np.array_equal(shown(data), right)


def tiff(data: bytes, bits: int, samples: int, *, plane: int = 1, kind: int = 1) -> bytes:
    """An uncompressed TIFF [8, 8] of one or three channels; plane 2: channels apart; kind 2: with a sign."""
    many, size = (samples, len(data) // samples) if plane == 2 else (1, len(data))
    tail = 8 + 2 + 12 * 11 + 4
    start = tail + 2 * samples * 2 + 8 * many
    tags = [(256, 4, [8]), (257, 4, [8]), (258, 3, [bits] * samples), (259, 3, [1])]
    tags += [
        (262, 3, [2 if samples > 1 else 1]),
        (273, 4, [start + i * size for i in range(many)]),
        (277, 3, [samples]),
        (278, 4, [8]),
    ]
    tags += [(279, 4, [size] * many), (284, 3, [plane]), (339, 3, [kind] * samples)]
    entries, beside = b"", b""
    for tag, form, values in tags:
        body = struct.pack(f"<{len(values)}{'H' if form == 3 else 'I'}", *values)
        where = body.ljust(4, b"\0") if len(body) <= 4 else struct.pack("<I", tail + len(beside))
        beside += body if len(body) > 4 else b""
        entries += struct.pack("<HHI", tag, form, len(values)) + where
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0" + beside
    return content.ljust(start, b"\0") + data


@pytest.mark.parametrize("reading", [SHOWN, REFERENCE])
def test_tiffs_that_pillow_mixes_up_are_refused(reading: decoding.Reading) -> None:
    deep = np.stack([GRAY, GRAY[::-1], GRAY.T]).astype("<u2") * 257
    together = decoding.rgb(tiff(deep.transpose(1, 2, 0).tobytes(), 16, 3), reading)
    assert np.array_equal(together, np.stack([GRAY, GRAY[::-1], GRAY.T], axis=-1))
    assert np.array_equal(decoding.rgb(tiff(GRAY.tobytes(), 8, 1), reading), whole(GRAY))
    with pytest.raises(DataError, match="channels stored apart"):
        decoding.rgb(tiff(deep.tobytes(), 16, 3, plane=2), reading)
    with pytest.raises(DataError, match="with a sign"):
        decoding.rgb(tiff(GRAY.tobytes(), 8, 1, kind=2), reading)
    with pytest.raises(DataError, match="a damaged TIFF, or one of pixels that Pillow cannot read"):
        decoding.rgb(tiff(b"\0" * 512, 64, 1, kind=3), reading)
