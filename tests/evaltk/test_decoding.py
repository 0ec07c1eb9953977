"""Every kind of image file gets its right 8-bit RGB, or is refused by name; and nothing but images is opened."""

from __future__ import annotations

import ast
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from evaltk.data import decoding
from evaltk.data.decoding import REFERENCE, SHOWN, Reading
from evaltk.errors import DataError, SettingsError

ROOT = Path(__file__).parents[2]
RAMP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def shown(data: bytes) -> np.ndarray:
    image = decoding.rgb(data, SHOWN, where="here")
    assert image.mode == "RGB"
    return np.asarray(image)


def gray(data: bytes) -> np.ndarray:
    pixels = shown(data)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def eight(values: np.ndarray, white: float) -> np.ndarray:
    return np.floor(values.astype(np.float64) * 255 / white + 0.5).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_gray_of_16_bits_is_scaled_by_the_range_of_16_bits(kind: str) -> None:
    header = f"P5 {RAMP.shape[1]} {RAMP.shape[0]} 65535\n".encode()  # which Pillow has not always written
    data = header + RAMP.astype(">u2").tobytes() if kind == "PPM" else encoded(Image.fromarray(RAMP), kind)
    assert np.array_equal(gray(data), eight(RAMP, 65535))


def test_big_endian_and_compressed_tiffs_of_16_bits_are_scaled_alike() -> None:
    big = Image.fromarray(RAMP.astype(">u2"))
    assert np.array_equal(gray(encoded(big, "TIFF")), eight(RAMP, 65535))
    data = encoded(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw")
    assert np.array_equal(gray(data), eight(RAMP, 65535))


def test_a_tiff_of_16_bits_whose_white_is_zero_is_inverted() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    data = bytearray(encoded(Image.fromarray(RAMP), "TIFF", tiffinfo=tags))
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    data[at + 8 : at + 10] = struct.pack("<H", 0)
    assert np.array_equal(gray(bytes(data)), 255 - eight(RAMP, 65535))


def test_floats_from_0_to_1_are_scaled_and_others_are_refused() -> None:
    values = (RAMP / 65535).astype(np.float32)
    assert np.array_equal(gray(encoded(Image.fromarray(values), "TIFF")), eight(values, 1))
    for wrong in (values * 255, values - 0.5, np.where(RAMP == 0, np.nan, values).astype(np.float32)):
        with pytest.raises(DataError, match="nothing tells what is white"):
            shown(encoded(Image.fromarray(wrong), "TIFF"))


def test_integers_of_32_bits_are_refused() -> None:
    with pytest.raises(DataError, match="32 bits"):
        shown(encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_as_reference_refuses_what_it_would_clip(dtype: type) -> None:
    data = encoded(Image.fromarray(RAMP.astype(dtype)), "TIFF")
    with pytest.raises(DataError, match="--show as-shown"):
        decoding.rgb(data, REFERENCE, where="here")


def test_colours_of_16_bits_keep_their_upper_8() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 32896, 0, 257, 65535, 1) for _ in range(2))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert shown(data)[0].tolist() == [[255, 128, 0], [1, 255, 0]]


def test_transparency_lies_on_white_in_every_mode_that_has_it() -> None:
    clear = Image.new("RGBA", (2, 1), (200, 10, 30, 255))
    clear.putpixel((1, 0), (200, 10, 30, 0))
    assert shown(encoded(clear, "PNG")).tolist() == [[[200, 10, 30], [255, 255, 255]]]
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 102))
    assert shown(encoded(half, "PNG")).tolist() == [[[153, 153, 153]]]
    pale = Image.new("LA", (2, 1), (40, 255))
    pale.putpixel((1, 0), (40, 0))
    assert shown(encoded(pale, "PNG"))[..., 0].tolist() == [[40, 255]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert shown(encoded(palette, "GIF", transparency=1)).tolist() == [[[9, 8, 7], [255, 255, 255]]]
    assert shown(encoded(Image.new("L", (1, 1), 7), "PNG", transparency=7)).tolist() == [[[255] * 3]]
    deep = encoded(Image.fromarray(np.array([[257, 514]], dtype=np.uint16)), "PNG", transparency=514)
    assert gray(deep).tolist() == [[1, 255]]
    assert np.asarray(decoding.rgb(encoded(clear, "PNG"), where="")).tolist() == [[[200, 10, 30]] * 2]  # reference


def test_one_bit_palettes_and_cmyk() -> None:
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    for kind in ("PNG", "TIFF", "PPM", "BMP"):
        assert gray(encoded(bits, kind)).tolist() == [[0, 255]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert shown(encoded(palette, "PNG")).tolist() == [[[9, 8, 7], [200, 100, 50]]]
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert shown(encoded(ink, "TIFF"))[0, 0].tolist() == [255, 0, 0]
    assert np.abs(shown(encoded(ink, "JPEG", quality=100))[0, 0].astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_as_shown_turns_as_exif_says_and_only_once(kind: str, turn: int) -> None:
    upright = np.zeros((32, 48), dtype=np.uint8)
    upright[:16, :24], upright[16:, :24] = 255, 120
    undo = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    stored = Image.fromarray(upright)
    if turn > 1:
        stored = stored.transpose(decoding.TURNS[undo[turn]])
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = turn
    options = {"lossless": True} if kind == "WEBP" else {}
    found = gray(encoded(stored, kind, exif=exif, **options)) if kind != "WEBP" else None
    if found is None:
        found = shown(encoded(stored.convert("RGB"), kind, exif=exif, **options))[..., 0]
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= (12 if kind == "JPEG" else 0)


def test_as_reference_is_pillows_conversion_to_the_bit() -> None:
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    for data in (
        encoded(picture, "JPEG", exif=exif),
        encoded(picture.convert("CMYK"), "JPEG"),
        encoded(picture, "PNG"),
    ):
        with Image.open(io.BytesIO(data)) as plain:
            assert np.array_equal(decoding.rgb(data, where=""), plain.convert("RGB"))


def test_a_colour_profile_is_followed_as_shown_and_a_broken_one_is_ignored() -> None:
    picture = Image.new("RGB", (4, 4), (90, 160, 60))
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert shown(encoded(picture, "PNG", icc_profile=same))[0, 0].tolist() == [90, 160, 60]
    assert shown(encoded(picture, "PNG", icc_profile=b"rubbish" * 9))[0, 0].tolist() == [90, 160, 60]
    # Red and blue change places in this profile's colorants; what it shows as green stays green.
    swapped = (
        same.replace(b"rXYZ", b"tmp!")
        .replace(b"bXYZ", b"rXYZ")
        .replace(b"tmp!", b"bXYZ")
        .replace(b"s\0R\0G\0B", b"o\0w\0n\0!")
    )
    swapped = swapped.replace(b"sRGB built-in", b"ours built-in")
    assert swapped != same
    data = encoded(picture, "PNG", icc_profile=swapped)
    assert np.abs(shown(data)[0, 0].astype(int) - [60, 160, 90]).max() <= 2
    assert np.asarray(decoding.rgb(data, where=""))[0, 0].tolist() == [90, 160, 60]


def test_eps_called_jpg_starts_nothing_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\necho 10.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(EPS)
    with pytest.raises(DataError, match="PostScript") as error:
        decoding.rgb(picture)
    assert str(picture) in str(error.value)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "an empty file"),
        (b"8BPS" + bytes(30), "Photoshop"),
        (b"\0\0\0\x18ftypheic" + bytes(30), "HEIC"),
        (b"\0\5\x16\7" + bytes(60), "macOS companion"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"hello, world", "no image of a known format"),
        (encoded(Image.new("RGB", (64, 64)), "PNG")[:60], "UnidentifiedImageError|OSError|SyntaxError|no image"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named_for_what_it_is(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        decoding.rgb(data, where="cat.jpg")


def test_an_image_above_the_limit_names_the_flag_and_the_flag_lets_it_in(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    Image.new("1", (40, 30)).save(path)
    with pytest.raises(DataError, match="1,200 pixels, the limit is 1,000: allow it with --max-pixels 1200"):
        decoding.rgb(path, Reading(max_pixels=1000))
    assert decoding.rgb(path, Reading(max_pixels=1200)).size == (40, 30)


def test_a_bomb_is_refused_from_its_header_and_pillows_limit_stays(tmp_path: Path) -> None:
    def bomb(width: int) -> bytes:
        data = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
        data[16:24] = struct.pack(">II", width, 20_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        return bytes(data)

    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match=r"400,000,000 pixels, .* --max-pixels 400000000"):
        decoding.rgb(bomb(20_000), where="bomb")
    with pytest.raises(DataError, match="resize it"):
        decoding.rgb(bomb(2_000_000), where="bomb")
    with pytest.raises(DataError, match="resize it"):
        decoding.rgb(bomb(2_000_000), Reading(max_pixels=decoding.LARGEST), where="bomb")
    assert before == Image.MAX_IMAGE_PIXELS
    for wrong in (0, decoding.LARGEST + 1):
        with pytest.raises(SettingsError, match="--max-pixels"):
            Reading(max_pixels=wrong)


def test_nothing_else_in_the_project_opens_images() -> None:
    calls = []
    for package in ("evaltk", "protocols", "pretrain", "reports"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                    calls.append((path.name, [k.arg for k in node.keywords]))
    own = "('corruptions.py', ['formats'])"  # JPEG bytes that it has made itself
    assert calls and set(map(str, calls)) - {own} == {"('decoding.py', ['formats'])"}
