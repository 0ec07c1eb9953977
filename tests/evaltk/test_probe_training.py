"""A sweep of heads over epochs: chosen and best heads by hand, resumed to the same bits, diverged heads named."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaltk.errors import DataError, SettingsError, StorageError
from evaltk.features.sweep_cache import Store
from evaltk.seeding import generator, normal
from evaltk.types import FeatureKey, Features, Recipe
from protocols.linear import heads as probe
from protocols.linear.batches import Batch, Cached
from protocols.linear.training import Sweep, Trained, train

KEY = FeatureKey(
    sha256="0", dataset="0", split="x", transform="", recipe="", precision="fp32", position="dino", version=1
)
CLASSES = 3
RECIPES = (Recipe(), Recipe(last=4))


def features(seed: int, count: int, *, noise: float = 2.0) -> tuple[Features, Features]:
    """Two features of the same images, of 6 and 10 dimensions; the second tells the classes apart better."""
    draw = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    centres = np.random.default_rng(77).normal(size=(CLASSES, 10)) * 2
    x = (centres[y] + noise * draw.normal(size=(count, 10))).astype(np.float32)
    ids = tuple(f"image{i}" for i in range(count))
    return tuple(Features(x=part, y=y, ids=ids, key=KEY) for part in (np.ascontiguousarray(x[:, :6]), x))  # type: ignore[return-value]


def a_sweep(**changed: object) -> Sweep:
    given = {
        "recipes": RECIPES, "lrs": (0.001, 0.1, 3.0), "num_classes": CLASSES, "epochs": 4, "batch": 20, "seed": 0,
    }  # fmt: skip
    return Sweep(**(given | changed))  # type: ignore[arg-type]


def a_source(sweep: Sweep, learnt: tuple[Features, ...], cls: type[Cached] = Cached) -> Cached:
    return cls(features=learnt, rows=np.arange(len(learnt[0].y)), batch=sweep.batch, seed=0, device="cpu")


def a_run(
    folder: Path, sweep: Sweep, source: Cached | None = None, held: tuple[Features, ...] | None = None
) -> Trained:
    store = Store(root=folder, key=KEY)
    held = features(2, 30) if held is None else held
    train(sweep, source or a_source(sweep, features(0, 90)), features(1, 60), held, store=store, device="cpu")
    assert store.done() and not store.state.exists()
    return Trained.read(store)


def by_torch(sweep: Sweep, f: int, h: int) -> Iterator[np.ndarray]:
    """Logits of one head on the reported images after each epoch, by torch's own layer, loss, optimizer, schedule."""
    learnt, reported = features(0, 90)[f], features(1, 60)[f]
    linear = torch.nn.Linear(learnt.x.shape[1], CLASSES)
    with torch.no_grad():
        drawn = generator(sweep.seed, "probe", "weights", RECIPES[f].text())
        linear.weight.copy_(normal(*linear.weight.shape, std=0.01, generator=drawn))
        linear.bias.zero_()
    optimizer = torch.optim.SGD(linear.parameters(), sweep.lrs[h] * sweep.batch / 256, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, sweep.epochs)
    for epoch in range(sweep.epochs):
        for batch in a_source(sweep, features(0, 90)).epoch(epoch, set()):
            optimizer.zero_grad()
            F.cross_entropy(linear(batch.x[f]), batch.y).backward()
            optimizer.step()
        schedule.step()
        yield linear(torch.from_numpy(reported.x)).detach().numpy()


def test_every_head_of_the_sweep_is_what_torch_makes_of_it(tmp_path: Path) -> None:
    sweep = a_sweep()
    found = a_run(tmp_path, sweep)
    y = features(1, 60)[0].y
    for f, h in itertools.product(range(2), range(3)):
        for correct, z in zip(found.history["test_correct"][:, f, h], by_torch(sweep, f, h), strict=True):
            own = z[np.arange(len(y)), y]
            z[np.arange(len(y)), y] = -np.inf
            lead = own - z.max(axis=1)
            # Two ways of rounding 20 steps: logits agree to 1e-5 or so, and a lead that is less may turn either way.
            assert (lead > 1e-4).sum() <= correct <= (lead > -1e-4).sum()
    assert (found.diverged == -1).all() and int(found.skipped) == 0
    for f in range(2):
        best = found.history["test_correct"][:, f]
        assert best[found.best_epoch[f], found.best_head[f]] == best.max() == (found.best_rank[f] == 0).sum()
        assert not (best[: found.best_epoch[f]] == best.max()).any()  # the first such epoch
        assert (found.best_predicted[f] == y).sum() == best.max()
        held, loss = found.history["held_correct"][-1, f], found.history["held_loss"][-1, f]
        assert found.chosen_head[f] == max(range(3), key=lambda h: (held[h], -loss[h]))
        assert (found.chosen_rank[f] == 0).sum() == found.history["test_correct"][-1, f, found.chosen_head[f]]
        assert np.array_equal(found.chosen_predicted[f] == y, found.chosen_rank[f] == 0)


def test_a_head_does_not_depend_on_what_is_trained_beside_it(tmp_path: Path) -> None:
    whole = a_run(tmp_path / "whole", a_sweep())
    alone = a_run(tmp_path / "one", a_sweep(lrs=(0.1,)))
    assert np.array_equal(whole.history["test_correct"][:, :, 1], alone.history["test_correct"][:, :, 0])
    np.testing.assert_allclose(
        whole.history["train_loss"][:, :, 1], alone.history["train_loss"][:, :, 0], rtol=1e-5, atol=0
    )


class Killed(BaseException):
    """What ends a process from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dies(Cached):
    """A source whose process is killed in the middle of an epoch."""

    at: list[int] = field(default_factory=lambda: [2])

    def epoch(self, epoch: int, unreadable: set[int]) -> Iterator[Batch]:
        for number, batch in enumerate(Cached.epoch(self, epoch, unreadable)):
            if self.at == [epoch] and number == 2:
                raise Killed
            yield batch


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    sweep, store = a_sweep(), Store(root=tmp_path / "killed", key=KEY)
    whole = a_run(tmp_path / "whole", sweep)
    with pytest.raises(Killed):
        a_run(store.root, sweep, a_source(sweep, features(0, 90), Dies))
    assert store.state.exists() and not store.done()
    steps: list[int] = []
    real = probe.step

    def counted(*args: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return real(*args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "step", counted)
        again = a_run(store.root, sweep)
    assert len(steps) == 2 * 5 * 2  # two epochs left, five batches each, two features
    for name in whole.history:
        assert np.array_equal(whole.history[name], again.history[name])
    for one in fields(Trained):
        if one.name != "history":
            assert np.array_equal(getattr(whole, one.name), getattr(again, one.name)), one.name


@pytest.mark.parametrize("damage", ["nothing", "empty", "flipped"])
def test_a_damaged_state_is_set_aside(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(root=tmp_path, key=KEY)
    store.write_state({"epoch": 1, "heads": [[torch.zeros(1000)]]})
    data = bytearray(store.state.read_bytes())
    data[2500] ^= 4
    store.state.write_bytes({"nothing": b"nothing", "empty": b"", "flipped": bytes(data)}[damage])
    found, whole = a_run(tmp_path, a_sweep()), a_run(tmp_path / "whole", a_sweep())
    assert "the state of a linear probe's training is damaged" in caplog.text and "begins anew" in caplog.text
    assert all(np.array_equal(found.history[name], whole.history[name]) for name in whole.history)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    sweep, store = a_sweep(), Store(root=tmp_path, key=KEY)
    store.write_state({"epoch": 1, "heads": [[torch.zeros(1)]]})
    with pytest.raises(StorageError, match="remove the file and run again"):
        a_run(tmp_path, sweep)
    store.state.unlink()
    a_run(tmp_path, sweep)
    (store.whole / "trained.npz").write_bytes(b"nothing")
    with pytest.raises(StorageError, match=r"a whole cache entry.*evaltk cache prune"):
        Trained.read(store)


def test_a_head_that_diverges_is_marked_and_poisons_no_other(tmp_path: Path) -> None:
    whole = a_run(tmp_path / "whole", a_sweep(lrs=(0.001, 0.1)))
    found = a_run(tmp_path / "one", a_sweep(lrs=(0.001, 0.1, 1e38)))
    assert found.diverged.tolist() == [[-1, -1, 0]] * 2
    assert (
        np.isnan(found.history["test_correct"][:, :, 2]).all() and np.isnan(found.history["held_loss"][:, :, 2]).all()
    )
    for name in ("test_correct", "held_correct"):
        assert np.array_equal(found.history[name][:, :, :2], whole.history[name])
    assert np.array_equal(found.chosen_head, whole.chosen_head) and np.array_equal(found.best_rank, whole.best_rank)
    with pytest.raises(SettingsError, match=r"does not diverge; got none of 2 in the first epoch.*--linear\.lr"):
        a_run(tmp_path / "none", a_sweep(lrs=(1e38, 3e38)))


def test_without_held_out_images_nothing_is_chosen(tmp_path: Path) -> None:
    found = a_run(tmp_path, a_sweep(), held=())
    assert found.chosen_head.tolist() == [-1, -1] and np.isnan(found.history["held_correct"]).all()
    assert (found.best_head >= 0).all()


def test_features_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    sweep, learnt = a_sweep(), features(0, 90)
    learnt[1].x[17, 3] = np.nan
    with pytest.raises(DataError, match=r"finite features; got NaN or infinity in 1 of 20; where: image image17"):
        a_run(tmp_path, sweep, a_source(sweep, learnt))
