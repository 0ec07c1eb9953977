"""Transforms against torchvision's, to the bit; the named views; sizes that will not do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2

from evaltk.data.transforms import Transform, view
from evaltk.errors import SettingsError
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD

STATISTICS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
MODES = {"bicubic": v1.InterpolationMode.BICUBIC, "bilinear": v1.InterpolationMode.BILINEAR}
SIZES = [(300, 200), (201, 333), (257, 255), (64, 64), (37, 90), (91, 36), (256, 256), (500, 21), (1, 1), (3, 2)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ours(transform: Transform, image: Image.Image) -> torch.Tensor:
    return transform.normalise(torch.from_numpy(transform.pixels(image)[None].copy()))[0]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
def test_equals_torchvision_to_the_bit(size: tuple[int, int], interpolation: str) -> None:
    image = noise(*size)
    for resize, crop in ((64, 56), (65, 56), (64, 64), (37, 36), (40, 33)):
        transform = Transform(resize=resize, crop=crop, interpolation=interpolation, **STATISTICS)
        mode = MODES[interpolation]
        first = v1.Compose(
            [v1.Resize(resize, mode), v1.CenterCrop(crop), v1.ToTensor(), v1.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        )
        second = v2.Compose(
            [
                v2.Resize(resize, mode),
                v2.CenterCrop(crop),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
        found = ours(transform, image)
        assert found.dtype == torch.float32 and found.shape == (3, crop, crop)
        assert torch.equal(found, first(image)), (size, resize, crop)
        # v2 multiplies by 1/255 where ToTensor, which the reference uses, divides by 255: the last bit differs.
        torch.testing.assert_close(found, second(image), rtol=0, atol=2e-6)
        pixels = v2.Compose([v2.Resize(resize, mode), v2.CenterCrop(crop), v2.PILToTensor()])(image)
        assert np.array_equal(transform.pixels(image), pixels.permute(1, 2, 0).numpy()), (size, resize, crop)


def test_a_batch_is_normalised_as_its_images_are() -> None:
    transform = Transform(resize=16, crop=16, **STATISTICS)
    pixels = np.stack([transform.pixels(noise(20, 30, seed)) for seed in range(4)])
    batch = transform.normalise(torch.from_numpy(pixels.copy()))
    assert batch.is_contiguous()
    for row, one in zip(batch, pixels, strict=True):
        assert torch.equal(row, transform.normalise(torch.from_numpy(one[None].copy()))[0])


@pytest.mark.parametrize(
    ("name", "img_size", "resize", "crop", "interpolation"),
    [
        ("eval", 224, 256, 224, "bicubic"),
        ("msn", 224, 256, 224, "bilinear"),
        ("ssl", 224, 224, 224, "bicubic"),
        ("eval", 448, 512, 448, "bicubic"),
        ("eval", 96, 109, 96, "bicubic"),
        ("eval", 32, 32, 32, "bicubic"),  # small nets see the whole image
        ("msn", 8, 8, 8, "bilinear"),
    ],
)
def test_the_named_views(name: str, img_size: int, resize: int, crop: int, interpolation: str) -> None:
    found = view(name, img_size, IMAGENET_MEAN, IMAGENET_STD)
    assert (found.resize, found.crop, found.interpolation) == (resize, crop, interpolation)


def test_what_the_user_sets_comes_first() -> None:
    def sizes(**given: object) -> tuple[int, int, str]:
        found = view("eval", 224, IMAGENET_MEAN, IMAGENET_STD, **given)
        return found.resize, found.crop, found.interpolation

    assert sizes(resize=300) == (300, 224, "bicubic")
    assert sizes(resize=128) == (128, 128, "bicubic")  # a crop cannot be larger than what it is cut from
    assert sizes(crop=112) == (128, 112, "bicubic")
    assert sizes(resize=448, crop=448, interpolation="bilinear") == (448, 448, "bilinear")


def test_the_text_tells_every_difference() -> None:
    base = Transform(resize=256, crop=224, **STATISTICS)
    others = [
        dataclasses.replace(base, **change)
        for change in (
            {"resize": 255},
            {"crop": 223},
            {"interpolation": "bilinear"},
            {"mean": (0.485, 0.456, 0.407)},
            {"std": (0.229, 0.224, 0.2250001)},
            {"mean": (0.48500001, 0.456, 0.406)},
        )
    ]
    assert len({t.text() for t in [base, *others]}) == len(others) + 1
    assert base.text() == (
        "resize 256 bicubic (Pillow), centre crop 224, RGB/255, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"crop": 33}, "--crop, --resize"),
        ({"crop": 0}, "1 <= crop <= resize"),
        ({"resize": 0}, "1 <= crop <= resize"),
        ({"interpolation": "lanczos"}, "bicubic or bilinear"),
        ({"std": (0.2, 0.0, 0.2)}, "std > 0"),
        ({"mean": (0.2, float("nan"), 0.2)}, "--mean"),
    ],
)
def test_what_will_not_do(change: dict, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Transform(**({"resize": 32, "crop": 32, **STATISTICS} | change))


def test_zero_is_not_taken_for_unsaid() -> None:
    for wrong in ({"crop": 0}, {"resize": 0}):
        with pytest.raises(SettingsError, match="1 <= crop <= resize"):
            view("eval", 224, IMAGENET_MEAN, IMAGENET_STD, **wrong)
