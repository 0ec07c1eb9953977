"""How images are prepared for a net in memory: asked for, read from transforms and timm models, never guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision import transforms as tv
from torchvision.transforms import v2

import evaltk
from evaltk.api import preparing, subjects
from evaltk.data import callables, transforms
from evaltk.data.callables import OwnTransform
from evaltk.data.transforms import Transform
from evaltk.errors import SettingsError
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD

HALF = (0.5, 0.5, 0.5)
ENDS = [tv.ToTensor(), tv.Normalize(HALF, HALF)]
IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
KNOWN: dict[str, tuple[Any, Transform]] = {
    "preset": (
        torchvision.models.ResNet18_Weights.DEFAULT.transforms(),
        Transform(resize=256, crop=224, interpolation="bilinear", **IMAGENET),
    ),
    "composition": (
        tv.Compose([tv.Resize(40, tv.InterpolationMode.BICUBIC), tv.CenterCrop(32), *ENDS]),
        Transform(resize=40, crop=32, mean=HALF, std=HALF),
    ),
    "timm": (
        timm.data.create_transform((3, 48, 48), interpolation="bicubic", crop_pct=0.9),
        Transform(resize=53, crop=48, **IMAGENET),
    ),
    "v2": (
        v2.Compose([v2.Resize(40), v2.CenterCrop(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
                    v2.Normalize(HALF, HALF)]),
        Transform(resize=40, crop=32, interpolation="bilinear", mean=HALF, std=HALF),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_what_resizes_crops_and_normalises_is_read_as_such(name: str) -> None:
    function, expected = KNOWN[name]
    assert callables.read(function) == expected


OWN = {
    "squashed": tv.Compose([tv.Resize((32, 32)), *ENDS]),
    "gray": tv.Compose([tv.Resize(40), tv.CenterCrop(32), tv.Grayscale(3), *ENDS]),
    "function": lambda image: tv.functional.to_tensor(image.resize((32, 32))),
}


@pytest.mark.parametrize("name", OWN)
def test_any_other_function_is_used_as_it_is(name: str) -> None:
    found = callables.read(OWN[name])
    assert isinstance(found, OwnTransform) and found.crop == 32
    (image, _) = callables.noise()
    pixels = torch.from_numpy(found.pixels(image)[None])
    assert torch.equal(found.normalise(pixels)[0], OWN[name](image))
    assert found.text().startswith("the user's own: ") and " at 0x" not in found.text() and "\n" not in found.text()


@pytest.mark.parametrize(("function", "told"), [
    (tv.Compose([tv.Resize(40), *ENDS]), "add a CenterCrop after the Resize"),
    (tv.Compose([tv.Resize((32, 40)), *ENDS]), "square images of one size"),
    (tv.Compose([tv.RandomResizedCrop(32), *ENDS]), "without random steps"),
    (lambda image: image, "a float tensor [3, H, W] per image; got Image"),
    (tv.PILToTensor(), "got uint8 [3, 200, 300]"),
    (lambda image: 1 / 0, "got ZeroDivisionError"),
])  # fmt: skip
def test_functions_that_will_not_do(function: Any, told: str) -> None:
    with pytest.raises(SettingsError) as error:
        callables.read(function)
    assert told in str(error.value)


def test_sizes_follow_the_protocols_rule() -> None:
    net = nn.Identity()
    for crop in (32, 224, 518):
        found = preparing.of_model(net, {"crop": crop, **IMAGENET}, "net")
        assert found.view() == transforms.view("eval", crop, IMAGENET_MEAN, IMAGENET_STD)
        assert found == preparing.of_model(net, found.view(), "net")
    larger = preparing.of_model(net, {"crop": 32, "resize": 40, "interpolation": "bilinear", **IMAGENET}, "net")
    assert larger.view() == Transform(resize=40, crop=32, interpolation="bilinear", **IMAGENET)
    assert larger == preparing.of_model(net, larger.view(), "net")


@pytest.mark.parametrize(("spec", "told"), [
    (None, "got a model that does not say"),
    ({}, "crop, mean, std; got nothing"),
    ({"crop": 32}, "mean, std; got only crop"),
    ({"size": 32}, "a size; got 'size'"),
    ({"crop": 32, "mean": (123, 116, 103), "std": HALF}, "divide values of 0 to 255 by 255"),
    ({"crop": 32, "mean": HALF, "std": (0, 0, 0)}, "std R G B"),
    ({"crop": 32.5, "mean": HALF, "std": HALF}, "a size in pixels"),
    ({"crop": 32, "resize": 16, "mean": HALF, "std": HALF}, "1 <= crop <= resize"),
    ({"crop": 32, "interpolation": "area", "mean": HALF, "std": HALF}, "bicubic or bilinear"),
    (5, "a transform, PIL image -> tensor"),
])  # fmt: skip
def test_what_is_not_told_is_asked(spec: Any, told: str) -> None:
    with pytest.raises(SettingsError) as error:
        preparing.of_model(nn.Identity(), spec, "net")
    assert told in str(error.value)


def test_a_timm_model_states_its_own_and_the_result_says_so() -> None:
    net = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=1, num_classes=0)
    found = preparing.of_model(net, None, "net")
    config = timm.data.resolve_model_data_config(net)
    assert callables.read(timm.data.create_transform(**config)) == found.view()
    result = evaltk.evaluate(net, "digits", ("knn",), settings={"knn": {"k": 1}}, limit=10)["knn"]
    assert result.checkpoint["name"] == "vit_tiny_patch16_224" and result.checkpoint["mean"] == list(HALF)
    assert result.notes[0].startswith("images prepared by the model's timm configuration: resize 248 bicubic")
    net.pretrained_cfg["crop_mode"] = "border"
    with pytest.raises(SettingsError, match="border crop"):
        preparing.of_model(net, None, "net")


def test_a_function_that_prepares_images_serves_what_makes_none_itself() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    looks: dict[str, Any] = {"transform": OWN["squashed"], "limit": 20}
    result = evaltk.evaluate(net, "digits", "knn", settings={"knn": {"k": 1}}, **looks)["knn"]
    assert result.preprocessing.views["eval"].text.startswith("the user's own: Compose(")
    assert result.checkpoint["mean"] == []
    with pytest.raises(SettingsError, match=r'settings=\{"linear": \{"fast": True}}'):
        evaltk.evaluate(net, "digits", "linear", **looks)
    settings = {"linear": {"fast": True, "epochs": 1, "lr": 0.1}}
    assert evaltk.evaluate(net, "digits", "linear", settings=settings, **looks)["linear"].scores
    seen = [np.asarray(evaltk.extract(net, "digits", transform=OWN["squashed"], limit=4).x) for _ in range(2)]
    assert np.array_equal(*seen)


def test_what_cannot_be_passed_to_processes_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    own, squashed = (OwnTransform(function=OWN[name], crop=32) for name in ("function", "squashed"))
    for method, expected in (("spawn", 0), ("fork", None)):
        monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none, method=method: method)
        assert subjects._workers(None, own) == expected
        assert subjects._workers(None, squashed) is None and subjects._workers(3, own) == 3


def test_a_class_head_left_on_is_noted() -> None:
    net = torchvision.models.resnet18(num_classes=7)
    looks = {"crop": 32, **IMAGENET}
    made = evaltk.extract(net, "digits", transform=looks, limit=4).made
    assert "model.fc, a class head" in made["notes"][0]
    net.fc = nn.Identity()
    assert not evaltk.extract(net, "digits", transform=looks, limit=4).made["notes"]
