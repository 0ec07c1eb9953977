"""Multi-crop: the parameters' distributions, Pillow against torchvision, and the device against Pillow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from pretrain.data import loader as data
from pretrain.data import views, views_device, views_plan
from pretrain.data.views import Views

WIDTH, HEIGHT = 200, 150
PLAIN = Views(num_local=3, jitter_prob=0.0, gray_prob=0.0, flip_prob=0.0, blur=(0.0,) * 3, solarize=(0.0,) * 3)


def photograph(seed: int = 0) -> Image.Image:
    """A smooth random image with edges, so that resizing and colours are put to the test."""
    numbers = np.random.default_rng(seed)
    smooth = Image.fromarray(numbers.integers(0, 256, (10, 12, 3), dtype=np.uint8))
    image = smooth.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    image.paste((250, 20, 60), (40, 30, 90, 70))
    return image


def on_device(image: Image.Image, params: views.Params, settings: Views) -> list[np.ndarray]:
    canvas = torch.zeros(1, 3, HEIGHT + 17, WIDTH + 5, dtype=torch.uint8)
    canvas[0, :, :HEIGHT, :WIDTH] = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    made = views_device.render(canvas, views.stack([params]), settings)
    return [255 * v[0].permute(1, 2, 0).numpy() for v in made]


def test_the_same_image_gets_the_same_views_whatever_came_before() -> None:
    a, b = (views.draw(Views(), 0, 3, 7, WIDTH, HEIGHT) for _ in range(2))
    other = views.draw(Views(), 0, 3, 8, WIDTH, HEIGHT)
    assert all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    assert not torch.equal(a.factors, other.factors)


def test_boxes_lie_in_the_image_and_cover_the_asked_share() -> None:
    drawn = views.stack([views.draw(Views(), 0, 0, i, WIDTH, HEIGHT) for i in range(400)])
    top, left, height, width = drawn.box.unbind(-1)  # [400, 12]
    assert int(top.min()) >= 0 and int(left.min()) >= 0
    assert int((top + height).max()) <= HEIGHT and int((left + width).max()) <= WIDTH
    share = (height * width).double() / (WIDTH * HEIGHT)
    assert float(share[:, :2].min()) > 0.24 and float(share[:, 2:].max()) < 0.26
    torch.manual_seed(0)
    for mine, scale in ((share[:, :2], (0.25, 1.0)), (share[:, 2:], (0.05, 0.25))):
        picture = torch.empty(3, HEIGHT, WIDTH)
        theirs = [RandomResizedCrop.get_params(picture, list(scale), [3 / 4, 4 / 3]) for _ in range(1000)]
        want = np.array([h * w for _, _, h, w in theirs]) / (WIDTH * HEIGHT)
        assert float(mine.mean()) == pytest.approx(want.mean(), abs=0.03)
        assert float(mine.std()) == pytest.approx(want.std(), abs=0.03)
    ratio = width.double() / height
    assert float(ratio.min()) > 0.7 and float(ratio.max()) < 1.4


def test_probabilities_are_dinos() -> None:
    drawn = views.stack([views.draw(Views(), 1, 0, i, WIDTH, HEIGHT) for i in range(1500)])
    share = {name: getattr(drawn, name).double().mean(0) for name in ("flip", "jitter", "gray", "blur", "solarize")}
    assert share["blur"][0] == 1 and share["blur"][1] == pytest.approx(0.1, abs=0.03)
    assert share["blur"][2:].mean() == pytest.approx(0.5, abs=0.02)
    assert share["solarize"][0] == 0 and share["solarize"][1] == pytest.approx(0.2, abs=0.04)
    assert share["solarize"][2:].sum() == 0
    assert share["jitter"].mean() == pytest.approx(0.8, abs=0.02) and share["gray"].mean() == pytest.approx(
        0.2, abs=0.02
    )
    factors = drawn.factors.flatten(0, 1)
    assert factors.amin(0).tolist() == pytest.approx([0.6, 0.6, 0.8, -0.1], abs=0.01)
    assert factors.amax(0).tolist() == pytest.approx([1.4, 1.4, 1.2, 0.1], abs=0.01)
    assert sorted(drawn.order[0, 0].tolist()) == [0, 1, 2, 3]


def test_pillow_views_are_torchvisions() -> None:
    image, settings = photograph(), Views(num_local=2, jitter_prob=1.0, blur=(0.0,) * 3, solarize=(1.0,) * 3)
    p = views.draw(settings, 0, 0, 0, WIDTH, HEIGHT)
    for i, (made, size) in enumerate(zip(views.render(image, p, settings), views.sizes(settings), strict=True)):
        box = p.box[i].tolist()
        want = TF.resized_crop(image, *box, [size, size], interpolation=TF.InterpolationMode.BICUBIC)
        want = TF.horizontal_flip(want) if p.flip[i] else want
        for which in p.order[i].tolist():
            adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)[which]
            want = adjust(want, float(p.factors[i, which]))
        want = TF.rgb_to_grayscale(want, 3) if p.gray[i] else want
        assert np.array_equal(made, np.asarray(TF.solarize(want, 128)))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_device_crops_are_pillows_to_rounding(interpolation: str) -> None:
    settings = dataclasses.replace(PLAIN, interpolation=interpolation, flip_prob=0.5)
    for epoch in range(4):
        p = views.draw(settings, 0, epoch, 0, WIDTH, HEIGHT)
        for a, b in zip(views.render(photograph(), p, settings), on_device(photograph(), p, settings), strict=True):
            # Pillow rounds to 8 bits after each of its two passes; a tie may go the other way in both.
            assert np.abs(a - b).max() < 2.1 and np.abs(a - b).mean() < 0.1 and (np.abs(a - b) > 1.6).mean() < 1e-4


@pytest.mark.parametrize(
    ("change", "mean", "most"),
    [
        ({"jitter_prob": 1.0, "jitter": (0.4, 0.0, 0.0, 0.0)}, 1.0, 10.0),
        ({"jitter_prob": 1.0, "jitter": (0.0, 0.4, 0.0, 0.0)}, 1.2, 10.0),
        ({"jitter_prob": 1.0, "jitter": (0.0, 0.0, 0.4, 0.0)}, 1.2, 10.0),
        ({"jitter_prob": 1.0, "jitter": (0.0, 0.0, 0.0, 0.1)}, 3.0, 20.0),  # Pillow's HSV has 8 bits a channel
        ({"gray_prob": 1.0}, 0.6, 2.0),
        ({"blur": (1.0, 1.0, 1.0)}, 1.5, 14.0),  # Pillow's Gaussian is three box filters
    ],
)
def test_each_device_step_is_near_pillows(change: dict, mean: float, most: float) -> None:
    settings = dataclasses.replace(PLAIN, **change)
    for epoch in range(3):  # Pillow turns hues in 8-bit HSV, which costs up to 8 levels even where the shift is 0
        p = views.draw(settings, 0, epoch, 0, WIDTH, HEIGHT)
        for a, b in zip(views.render(photograph(), p, settings), on_device(photograph(), p, settings), strict=True):
            assert np.abs(a - b).mean() < mean and np.abs(a - b).max() < most


def test_solarized_where_both_agree_on_the_side_of_the_threshold() -> None:
    settings = dataclasses.replace(PLAIN, solarize=(1.0, 1.0, 1.0))
    p = views.draw(settings, 0, 0, 0, WIDTH, HEIGHT)
    before = views.render(photograph(), p, PLAIN)
    pairs = zip(views.render(photograph(), p, settings), on_device(photograph(), p, settings), before, strict=True)
    for a, b, plain in pairs:
        clear = np.abs(plain.astype(float) - 127.5) > 2
        assert np.abs(a - b)[clear].max() < 1.6


def batch_of(settings: Views, count: int) -> tuple[torch.Tensor, views.Params]:
    images = [photograph(i).resize((WIDTH - 7 * i, HEIGHT - 5 * i)) for i in range(count)]
    canvas = torch.zeros(count, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    for row, image in zip(canvas, images, strict=True):
        row[:, : image.size[1], : image.size[0]] = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    return canvas, views.stack([views.draw(settings, 0, 0, i, *image.size) for i, image in enumerate(images)])


@pytest.mark.parametrize("at_a_time", [1, 2, 5])
def test_a_batch_gives_each_image_what_it_gets_alone(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Views(num_local=4, global_size=48, local_size=32, solarize=(0.5, 0.5, 0.5), gray_prob=0.5)
    canvas, params = batch_of(settings, 5)
    positions = 2 * 48 + 4 * 32
    monkeypatch.setattr(views_plan, "CELLS", at_a_time * positions * (HEIGHT + WIDTH))
    together = views_device.render(canvas, params, settings)
    for i in range(5):
        own = views.Params(**{name: getattr(params, name)[i : i + 1] for name in views.Params.__slots__})
        for whole, alone in zip(together, views_device.render(canvas[i : i + 1], own, settings), strict=True):
            # Sums are taken in another order, so a tie may be rounded to the other level.
            assert float((255 * (whole[i] - alone[0])).abs().max()) < 2
            assert float((255 * (whole[i] - alone[0])).abs().mean()) < 0.01


def test_views_on_the_device_are_few_launches_without_a_question_to_it() -> None:
    from benchmarks import roofline

    made = roofline.recipes.load("dino_vmf_vits16", ["views.where=device", "optim.batch=16"])
    count = roofline.count_views(made, 16)
    assert not count.syncs and count.launches <= 150 and count.bytes / 16 < 0.12e9


def test_every_image_of_an_epoch_once_and_shares_are_disjoint() -> None:
    orders = [data.Order(count=103, batch=20, seed=0, rank=r, world=2) for r in (0, 1)]
    steps = [list(o.epoch(4)) for o in orders]
    joined = [i for pair in zip(*steps, strict=True) for part in pair for _, i in part]
    assert len(joined) == len(set(joined)) == 100
    alone = list(data.Order(count=103, batch=20, seed=0).epoch(4))
    assert [i for part in alone for _, i in part] == joined
    assert list(orders[0].epoch(4, start=3)) == steps[0][3:]
