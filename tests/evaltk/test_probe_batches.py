"""What a probe learns from: images held out by class, orders and crops that depend on seed, epoch and image alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from evaltk import build_backbone, datasets, distributed, load_checkpoint
from evaltk.data import images, transforms
from evaltk.data.images import Split
from evaltk.data.subsets import hold_out, subset
from evaltk.errors import DataError
from evaltk.features.extraction import Extraction
from evaltk.seeding import derive
from evaltk.types import Recipe
from protocols.linear import batches as probe_batches
from protocols.linear.batches import Augmented

NET = "random:vit_patch4_dim32_depth2_heads2_img16"
RECIPES = (Recipe(), Recipe(tokens="cls+mean", last=2))


def test_held_out_images_stand_for_their_classes() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [5000, 2500, 500]))
    held = hold_out(labels, 0.01, seed=0)
    assert len(held) == 80 and len(set(held.tolist())) == 80 and np.array_equal(held, np.sort(held))
    assert np.bincount(labels[held]).tolist() == [50, 25, 5]
    assert np.array_equal(held, hold_out(labels, 0.01, seed=0))
    assert not np.array_equal(held, hold_out(labels, 0.01, seed=1))


def test_held_out_images_where_there_are_few() -> None:
    labels = np.repeat(np.arange(10), 100)
    assert np.bincount(labels[hold_out(labels, 0.01, seed=0)]).tolist() == [1] * 10
    assert len(hold_out(np.arange(4) // 2, 0.01, seed=0)) == 1  # at least one
    assert len(hold_out(labels, 0.0, seed=0)) == 0
    odd = np.array([0] * 99 + [1])  # the only image of its class is learnt from
    assert all(odd[hold_out(odd, 0.5, seed=s)].sum() == 0 for s in range(5))
    assert len(hold_out(np.zeros(1, int), 0.5, seed=0)) == 0  # somebody must be learnt from


def test_an_epoch_has_every_image_once_in_an_order_of_its_own() -> None:
    rows = np.arange(3, 50)
    first, again, other, seeded = (
        probe_batches.order(rows, 10, epoch, seed=seed) for epoch, seed in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert [len(b) for b in first] == [10, 10, 10, 10, 7]
    assert np.array_equal(np.sort(np.concatenate(first)), rows)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[0], seeded[0])


def test_a_subset_is_a_split_of_its_own(image_tree: Callable[..., Path]) -> None:
    root = image_tree({"train/cat": 3, "train/dog": 3})
    split = images.from_folder("pets", "train", root, ["cat", "dog"], get="")
    part = subset(split, np.array([1, 5]), "held")
    assert [part.image_id(i) for i in range(2)] == ["train/cat/001.png", "train/dog/002.png"]
    assert part.labels.tolist() == [0, 1] and part.name == "held" and len(part) == 2
    assert np.array_equal(np.asarray(part.open(1)), np.asarray(split.open(5)))
    prints = {split.fingerprint, part.fingerprint, subset(split, np.array([1, 4]), "held").fingerprint}
    assert len(prints) == 3
    digits = datasets.load("digits").train
    some = subset(digits, np.array([7, 9]), "held")
    assert np.array_equal(np.asarray(some.open(1)), np.asarray(digits.open(9)))


def augmented(split: Split, workers: int = 0, **changed: object) -> Augmented:
    backbone = build_backbone(load_checkpoint(NET))
    source = Augmented(
        backbone=backbone, split=split, rows=np.arange(2, len(split)), recipes=RECIPES, widths=(32, 96),
        transform=transforms.view("eval", 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), batch=10, seed=4,
        how=Extraction(batch_size=4, workers=workers),
    )  # fmt: skip
    return dataclasses.replace(source, **changed)


@pytest.fixture
def split(image_tree: Callable[..., Path]) -> Split:
    root = image_tree({"train/cat": 13, "train/dog": 12})
    return images.from_folder("pets", "train", root, ["cat", "dog"], get="")


def test_crops_are_torchvisions_and_go_through_the_net(split: Split) -> None:
    source = augmented(split)
    found = list(source.epoch(3, set()))
    assert [len(b.y) for b in found] == [10, 10, 3]
    index = np.concatenate([b.index for b in found])
    assert sorted(index.tolist()) == list(range(2, 25))
    crop = v2.Compose([v2.RandomResizedCrop(16, scale=(0.08, 1.0), interpolation=2), v2.RandomHorizontalFlip(0.5)])
    normalise = v2.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    batch = found[1]
    for row, number in enumerate(batch.index.tolist()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(4, "probe", "crop", 3, number))
            image: Image.Image = crop(split.open(number))
        x = normalise(v2.functional.to_dtype(v2.functional.pil_to_tensor(image), torch.float32, scale=True))[None]
        for mine, wanted in zip(batch.x, source.backbone.features(x, RECIPES), strict=True):
            torch.testing.assert_close(mine[row], wanted[0], rtol=1e-4, atol=1e-5)
        assert int(batch.y[row]) == int(split.labels[number])
    assert [x.shape[1] for x in batch.x] == [32, 96]


def test_crops_are_the_same_whatever_the_workers_and_differ_between_epochs(split: Split) -> None:
    here, there = (list(augmented(split, workers).epoch(0, set())) for workers in (0, 2))
    for a, b in zip(here, there, strict=True):
        assert np.array_equal(a.index, b.index) and all(torch.equal(x, z) for x, z in zip(a.x, b.x, strict=True))
    state = torch.get_rng_state()
    crops = [probe_batches.random_crop(split, probe_batches.crops(16), 4, epoch, 5) for epoch in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())  # nobody else's random numbers are touched
    assert crops[0].shape == (16, 16, 3) and crops[0].tobytes() == crops[1].tobytes() != crops[2].tobytes()


def test_two_processes_share_each_batch(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(augmented(split).epoch(0, set()))
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    made: list[list[probe_batches.Batch]] = []
    for rank in (1, 0):
        waiting = list(sent)

        def add(x: torch.Tensor, waiting: list[torch.Tensor] = waiting) -> torch.Tensor:
            sent.append(x.clone())
            return x + waiting.pop(0) if waiting else torch.where(x[:, -1:] > 0, x, torch.ones_like(x))

        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "all_reduce", add)
        made.append(list(augmented(split).epoch(0, set())))
    second, first = sent[:3], sent[3:]
    assert [int(x[:, -1].sum()) for x in first] == [5, 5, 1] and [int(x[:, -1].sum()) for x in second] == [5, 5, 2]
    for one, both in zip(alone, made[1], strict=True):
        assert np.array_equal(one.index, both.index) and torch.equal(one.y, both.y)
        for x, z in zip(one.x, both.x, strict=True):
            torch.testing.assert_close(x, z, rtol=1e-4, atol=1e-5)


def test_an_unreadable_image_is_named_or_left_out(split: Split) -> None:
    assert split.root is not None
    (split.root / split.image_id(7)).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"at most 0 unreadable images in pets train; got 1 .*train/cat/007\.png"):
        list(augmented(split).epoch(0, set()))
    source = augmented(split, how=Extraction(workers=0, skip_bad_images=1))
    unreadable: set[int] = set()
    for epoch in (0, 1):  # the same image again is no second one
        index = np.concatenate([b.index for b in source.epoch(epoch, unreadable)])
        assert sorted(index.tolist()) == [i for i in range(2, 25) if i != 7]
    assert unreadable == {7}
