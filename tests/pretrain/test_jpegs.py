"""JPEG files decoded where the views are made: the same pixels, views and training as through Pillow in workers."""

from __future__ import annotations

import dataclasses
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from small_run import lines, train
from torchvision.io import ImageReadMode, decode_jpeg

from evaltk.cli import main
from evaltk.data import decoding
from evaltk.data.decoding import REFERENCE, SHOWN
from evaltk.errors import DataError
from pretrain.data import jpegs, loader, sources, views
from pretrain.data.views import Views

SETTINGS = Views(where="device", global_size=32, local_size=16, num_local=2)
CPU = torch.device("cpu")


def photograph(seed: int, size: tuple[int, int] = (70, 50), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


def jpeg(image: Image.Image, **how: object) -> bytes:
    image.save(stream := io.BytesIO(), "JPEG", quality=90, **how)
    return stream.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6
    return exif


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PLAIN = {
    "4:2:0": jpeg(photograph(0)),
    "4:4:4": jpeg(photograph(1), subsampling=0),
    "progressive": jpeg(photograph(2), progressive=True),
    "gray": jpeg(photograph(3, mode="L")),
    "odd sides": jpeg(photograph(4, (33, 17))),
    "restart markers": jpeg(photograph(5), restart_marker_rows=1),
    "one pixel": jpeg(photograph(6, (1, 1))),
}
OTHER = {
    "CMYK": jpeg(photograph(0, mode="CMYK")),
    "RGB as such": jpeg(photograph(0), keep_rgb=True),
    "cut off": jpeg(photograph(0))[:-400],
    "PNG": b"\x89PNG\r\n\x1a\n",
    "nothing": b"",
    "a header alone": b"\xff\xd8\xff\xd9",
}


@pytest.mark.parametrize("kind", PLAIN)
def test_what_every_decoder_shows_alike_is_told(kind: str) -> None:
    with Image.open(io.BytesIO(PLAIN[kind])) as image:
        wanted = np.asarray(image.convert("RGB"))
    for reading in (REFERENCE, SHOWN):
        found = jpegs.plain(PLAIN[kind], reading)
        assert found is not None and found.size == wanted.shape[1::-1]
    pixels = decode_jpeg(torch.frombuffer(bytearray(PLAIN[kind]), dtype=torch.uint8), mode=ImageReadMode.RGB)
    difference = np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - wanted)
    assert difference.max() <= 2 and difference.mean() < 0.1


@pytest.mark.parametrize("kind", OTHER)
def test_what_they_do_not_is_left_to_pillow(kind: str) -> None:
    assert jpegs.plain(OTHER[kind], REFERENCE) is None
    assert jpegs.plain(OTHER[kind], SHOWN) is None


def test_what_a_viewer_shows_otherwise_is_left_to_pillow_where_it_is_read_so() -> None:
    for data in (jpeg(photograph(0), exif=turned()), jpeg(photograph(0), icc_profile=PROFILE)):
        assert jpegs.plain(data, SHOWN) is None
        assert jpegs.plain(data, REFERENCE) is not None
    large = dataclasses.replace(REFERENCE, max_pixels=70 * 50 - 1)
    assert jpegs.plain(PLAIN["4:2:0"], large) is None  # Pillow says that it is too large


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of JPEG files of many sizes, with a PNG, a turned one and CMYK in between."""
    root = tmp_path / "photos"
    for i in range(12):
        path = root / "ab"[i % 2] / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(photograph(i, (40 + i, 60 - i)), progressive=bool(i % 3)))
    photograph(20).save(root / "a" / "20.png")
    (root / "a" / "21.jpg").write_bytes(jpeg(photograph(21), exif=turned()))
    (root / "b" / "22.jpg").write_bytes(OTHER["CMYK"])
    return root


def batches(source: sources.Source, settings: Views, workers: int = 0) -> list[loader.HostBatch]:
    dataset = loader.ViewDataset(source, settings, seed=0, masking=None, patch_size=8)
    order = [[(0, i) for i in range(start, len(source), 5)] for start in range(5)]
    return list(loader.loader(dataset, order, workers=workers, world=1))


def rendered(batch: loader.HostBatch) -> list[torch.Tensor]:
    return loader.to_device(batch, SETTINGS, CPU, mean=(0.0,) * 3, std=(1.0,) * 3).views


@pytest.mark.parametrize("kind", ["folder", "zip", "imagefolder", "wds"])
@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_those_of_images_decoded_by_workers(kind: str, workers: int, folder: Path, tmp_path: Path) -> None:
    source = sources.open_source(f"{kind}={stored(kind, folder, tmp_path)}")
    decoded = batches(source, SETTINGS)
    encoded = batches(source, dataclasses.replace(SETTINGS, decode="device"), workers)
    left = 0
    for plain, other in zip(decoded, encoded, strict=True):
        assert torch.equal(plain.index, other.index) and plain.ids == other.ids and plain.bad == other.bad == ()
        assert other.encoded is not None and len(other.encoded.data) == other.encoded.ends[-1]
        assert (other.canvas is None) == (len(other.encoded.rows) == len(other.index))
        left += len(other.index) - len(other.encoded.rows)
        for a, b in zip(rendered(plain), rendered(other), strict=True):
            assert float((a - b).abs().max()) < 12 / 255 and float((a - b).abs().mean()) < 0.2 / 255
    turns = source.reading.show == "as-shown"  # type: ignore[attr-defined]
    assert left == 2 + turns  # the PNG, CMYK, and the turned one


def stored(kind: str, folder: Path, place: Path) -> Path:
    """The folder's images as a source of that kind."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if kind == "zip":
        with zipfile.ZipFile(place / "photos.zip", "w") as archive:
            for path in files:
                archive.write(path, path.relative_to(folder))
        return place / "photos.zip"
    if kind == "imagefolder":
        for name in ("train", "test"):
            shutil.copytree(folder, place / "set" / name)
        return place / "set"
    if kind == "wds":
        import tarfile

        for name in ("train", "test"):
            with tarfile.open(place / f"{name}-000000.tar", "w") as archive:
                for n, path in enumerate(files):
                    for suffix, data in ((path.suffix, path.read_bytes()), (".cls", b"01"[n % 2 : n % 2 + 1])):
                        info = tarfile.TarInfo(f"{n:04d}{suffix}")
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
        return place
    return folder


def test_unreadable_images_are_replaced_in_the_worker(folder: Path) -> None:
    broken = folder / "a" / "04.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    source = sources.open_source(f"folder={folder}")
    found = [
        [one.bad for one in batches(source, settings)]
        for settings in (SETTINGS, dataclasses.replace(SETTINGS, decode="device"))
    ]
    assert found[0] == found[1] and sum(map(len, found[0])) == 1


def test_pillow_takes_over_where_the_decoder_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(n, name, jpegs.plain(data, REFERENCE)) for n, (name, data) in enumerate(PLAIN.items())]
    encoded = jpegs.together(files, (len(files), 3, 50, 70))  # type: ignore[arg-type]
    assert encoded is not None
    wanted = jpegs.on_canvas(None, encoded, CPU)

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("nvjpegDecodeBatched failed: 5")

    monkeypatch.setattr("torchvision.io.decode_jpeg", fails)
    got = jpegs.on_canvas(None, encoded, CPU)
    assert int((wanted.int() - got.int()).abs().max()) <= 2


def test_what_nobody_can_decode_is_named() -> None:
    data = PLAIN["4:2:0"]
    at = data.index(b"\xff\xda")  # no scan is left of it, but both ends are there
    broken = jpegs.Jpeg(data=data[:at] + b"\xff\xd9", size=(70, 50))
    encoded = jpegs.together([(0, "a/00.jpg", broken)], (1, 3, 50, 70))
    assert encoded is not None
    with pytest.raises(DataError, match=r"where: a/00\.jpg; do: read by workers.*views\.decode=workers") as error:
        jpegs.on_canvas(None, encoded, CPU)
    assert "\n" not in str(error.value)


def test_a_training_whose_images_the_device_decodes(folder: Path, tmp_path: Path) -> None:
    sets = ["views.where=device", "optim.epochs=1"]
    assert train(folder, tmp_path / "plain", *sets) == 0
    assert train(folder, tmp_path / "device", *sets, "views.decode=device") == 0
    plain, device = (
        [line["loss"] for line in lines(tmp_path / name) if "loss" in line] for name in ("plain", "device")
    )
    assert len(plain) == len(device) == 3 and np.allclose(plain, device, rtol=0.02)


def test_decoding_there_needs_views_made_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["pretrain", "dino_vits16", "--data", f"folder={tmp_path}", "--out", str(tmp_path / "out")]
    assert main([*words, "--set", "views.decode=device"]) == 2
    assert "views.where = device" in capsys.readouterr().err
    assert views.Views().decode == "workers"
