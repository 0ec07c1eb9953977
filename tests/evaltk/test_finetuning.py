"""What fine-tuning is made of, against timm's schedule, the original's samplers played through, and by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.mixup import mixup_target
from timm.scheduler import CosineLRScheduler

from evaltk import build_backbone, load_checkpoint
from evaltk.data import images, transforms
from evaltk.errors import DataError
from evaltk.features.extraction import Extraction
from evaltk.seeding import seeded
from evaltk.types import Arch
from protocols.finetune import batches as finetune_batches
from protocols.finetune import recipe as finetuning
from protocols.finetune.batches import Views
from protocols.finetune.recipe import Tuning

NET = "random:vit_patch4_dim32_depth3_heads2_img16"


def arch(dim: int) -> Arch:
    return Arch(
        name="net", patch_size=16, embed_dim=dim, depth=12, num_heads=6, mlp_ratio=4, img_size=224, norm_eps=1e-6
    )


def small(**changed: object) -> Tuning:
    given = {"epochs": 2, "batch": 8, "group": 4, "repeats": 1, "lr": (0.01,), "scale_lr": False, "warmup_epochs": 1}
    base = {f: getattr(finetuning.preset("small", arch(384)), f) for f in Tuning.__slots__}
    return Tuning(**(base | given | changed))


def views(num_images: int = 20, tuning: Tuning | None = None, **how: object) -> Views:
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (num_images, 16, 16, 3), dtype=np.uint8)
    split = images.from_arrays("made", "train", pixels, np.arange(num_images) % 3, ("a", "b", "c"))
    return Views(
        split=split, rows=np.arange(num_images), tuning=tuning or small(), seed=0,
        transform=transforms.view("eval", 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        how=Extraction(workers=0, batch_size=8, **how),  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_recipes_are_the_published_ones() -> None:
    s, b = (finetuning.preset("imagenet", arch(dim)) for dim in (384, 768))
    assert (s.epochs, s.layer_decay, s.drop_path) == (200, 0.75, 0.1)
    assert (b.epochs, b.layer_decay, b.drop_path) == (100, 0.65, 0.2)
    for found in (s, b):
        assert found.lr == (8e-4, 9e-4, 1e-3, 2e-3) and not found.scale_lr
        assert (found.batch, found.group, found.warmup_epochs, found.warmup_lr, found.min_lr) == (
            1024,
            128,
            20,
            0.0,
            1e-6,
        )
        assert (found.head_scale, found.interpolation, found.repeats) == (0.001, "bilinear", 1)
    found = finetuning.preset("small", arch(384))
    assert (found.lr, found.scale_lr, found.epochs, found.batch, found.group) == ((7.5e-6,), True, 1000, 768, 96)
    assert (found.layer_decay, found.drop_path, found.repeats, found.head_scale) == (1.0, 0.1, 3, 1.0)
    for one in (s, b, found):
        mixed = one.smoothing, one.mixup, one.cutmix, one.erase, one.weight_decay, one.augment
        assert mixed == (0.1, 0.8, 1.0, 0.25, 0.05, "rand-m9-mstd0.5-inc1")


@pytest.mark.parametrize(("epochs", "warmup"), [(1000, 5), (7, 3), (4, 0)])
def test_the_small_recipes_rates_are_timms_scheduler_called_after_each_epoch(epochs: int, warmup: int) -> None:
    tuning = small(
        epochs=epochs, warmup_epochs=warmup, lr=(7.5e-6,), scale_lr=True, batch=768, group=96, schedule="epoch"
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=7.5e-6 * 768 / 512)
    timms = CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=1e-5, warmup_t=warmup, warmup_lr_init=1e-6, cycle_limit=1
    )
    expected = []
    for epoch in range(epochs):
        expected += [optimizer.param_groups[0]["lr"]] * 3
        timms.step(epoch)
    np.testing.assert_allclose(finetuning.learning_rates(tuning, 7.5e-6, 3), expected, rtol=1e-9)


def test_the_imagenet_recipes_rates_rise_from_zero_and_fall_by_a_cosine_by_step() -> None:
    tuning = small(epochs=5, warmup_epochs=2, warmup_lr=0.0, min_lr=1e-6, schedule="step")
    found = finetuning.learning_rates(tuning, 1e-3, 4)
    expected = [1e-3 * i / 7 for i in range(8)]
    expected += [1e-6 + 0.5 * (1e-3 - 1e-6) * (1 + math.cos(math.pi * i / 12)) for i in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def played(count: int, ranks: int, each: int, repeats: int, mixed: list[int]) -> Iterator[list[list[int]]]:
    """The batches of every process, step by step, as torch's DistributedSampler or DeiT's RASampler deals them."""
    indices = [i for i in mixed for _ in range(repeats)]
    total = math.ceil(count * repeats / ranks) * ranks
    indices += indices[: total - len(indices)]
    dealt = [indices[r:total:ranks] for r in range(ranks)]
    if repeats > 1:
        dealt = [mine[: math.floor(count // 256 * 256 / ranks)] for mine in dealt]
    for step in range(len(dealt[0]) // each):
        yield [mine[step * each : (step + 1) * each] for mine in dealt]


@pytest.mark.parametrize(("count", "repeats"), [(1024, 1), (1100, 3), (768, 3)])
def test_images_fall_into_groups_as_into_the_originals_processes(count: int, repeats: int) -> None:
    tuning = small(batch=64, group=16, repeats=repeats)
    mixed = finetuning.order(count, 1, 3, seed=0)
    assert sorted(mixed) == list(range(count))
    found = finetuning.groups(finetuning.order(count, repeats, 3, seed=0), tuning)
    expected = list(played(count, 4, 16, repeats, mixed.tolist()))
    assert found.tolist() == expected[: len(found)] and len(found) == finetuning.steps_of(count, tuning)
    assert len(found) == len(expected)
    if repeats > 1:
        assert all(len(set(group)) == len(group) for step in found.tolist() for group in step)


def test_layers_learn_at_rates_of_their_own_and_vectors_are_not_decayed() -> None:
    checkpoint = load_checkpoint(NET)
    tuning = small(layer_decay=0.5)
    model = finetuning.build(checkpoint.arch, checkpoint.weights, 3, tuning, position="dino", seed=0)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in finetuning.parameter_groups(model, tuning)
        for p in group["params"]
    }
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert "net.mask_token" not in found
    for name, expected in {
        "net.cls_token": (0.5**4, 0.0), "net.pos_embed": (0.5**4, 0.0), "net.patch_embed.proj.weight": (0.5**4, 0.05),
        "net.patch_embed.proj.bias": (0.5**4, 0.0), "net.blocks.0.attn.qkv.weight": (0.5**3, 0.05),
        "net.blocks.2.mlp.fc2.weight": (0.5**1, 0.05), "net.blocks.2.norm1.weight": (0.5**1, 0.0),
        "net.norm.weight": (1.0, 0.0), "head.weight": (1.0, 0.05), "head.bias": (1.0, 0.0),
    }.items():  # fmt: skip
        assert found[name] == expected, name


def test_a_new_net_gives_the_backbones_class_token_and_leaves_the_checkpoint_alone() -> None:
    checkpoint = load_checkpoint(NET)
    before = {k: t.clone() for k, t in checkpoint.weights.items()}
    model = finetuning.build(checkpoint.arch, checkpoint.weights, 3, small(), position="dino", seed=0).eval()
    x = torch.randn(2, 3, 16, 16)
    (tokens,) = build_backbone(checkpoint).tokens(x)
    expected = tokens.cls @ model.head.weight.t()
    torch.testing.assert_close(model(x), expected)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    assert all(torch.equal(checkpoint.weights[k], t) for k, t in before.items())


def test_soft_targets_are_timms() -> None:
    labels = torch.tensor([0, 2, 1])
    torch.testing.assert_close(finetuning.soft_target(labels, 3, 0.1), mixup_target(labels, 3, 1.0, 0.1))


def test_global_streams_are_as_before_afterwards() -> None:
    def drawn() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    with seeded(1):
        expected = drawn()
        with seeded(5):
            inner = drawn()
        went_on = drawn()
    with seeded(5):
        assert drawn() == inner
    with seeded(1):
        assert drawn() == expected and drawn() == went_on


def test_views_depend_on_epoch_and_place_alone() -> None:
    first, again, later = (list(views().epoch(e, set())) for e in (0, 0, 1))
    assert [len(step) for step in first] == [2, 2]  # 20 images, 8 a step: the last four are left out
    for step, same, other in zip(first, again, later, strict=True):
        for (g, x, y), (g2, x2, y2), (_, x3, _) in zip(step, same, other, strict=True):
            assert (g, x.shape, x.dtype) == (g2, (4, 3, 16, 16), torch.float32)
            assert torch.equal(x, x2) and torch.equal(y, y2) and not torch.equal(x, x3)


def test_a_view_is_of_the_image_whose_label_stands_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = views()
    monkeypatch.setattr(finetune_batches, "augmentation", lambda *_: lambda image: torch.from_numpy(np.array(image)))
    laid = finetuning.groups(finetuning.order(20, 1, 0, seed=0), made.tuning)
    assert made.split.pixels is not None
    for step, found in zip(laid, made.epoch(0, set()), strict=True):
        for g, x, y in found:
            np.testing.assert_array_equal(x, made.split.pixels[step[g]])
            assert y.tolist() == made.split.labels[step[g]].tolist()


def test_posterising_to_no_bits_is_black() -> None:
    image = Image.fromarray(np.full((4, 4, 3), 200, dtype=np.uint8))
    assert not np.asarray(finetune_batches._posterized(image, 0)).any()
    assert np.asarray(finetune_batches._posterized(image, 8)).max() == 200
    assert np.asarray(finetune_batches._posterized(image, 1)).max() == 128


def test_unreadable_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = views(skip_bad_images=1), images.Split.open

    def opened(self: images.Split, index: int) -> Image.Image:
        if index == 7:
            raise DataError(wanted="an image", got="damage", where="7")
        return real(self, index)

    monkeypatch.setattr(images.Split, "open", opened)
    unreadable: set[int] = set()
    seen = [y for e in range(3) for step in made.epoch(e, unreadable) for _, _, y in step]
    assert unreadable == {7} and all(len(y) == 4 for y in seen)
    with pytest.raises(DataError, match="at most 0 unreadable images"):
        for e in range(3):
            list(views().epoch(e, set()))
