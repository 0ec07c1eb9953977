"""Fine-tuning end to end: against a plain loop, killed and resumed, in two processes, from the command line."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaltk import build_backbone, cli, datasets, load_checkpoint
from evaltk.bench import Bench, ImageOptions, Outcome
from evaltk.data import images
from evaltk.data.images import Dataset
from evaltk.deviations import NOT_COMPARABLE
from evaltk.errors import CheckpointError, DataError, SettingsError
from evaltk.features.extraction import Extraction
from evaltk.features.sweep_cache import Store
from protocols import finetune
from protocols.finetune import Settings
from protocols.finetune import data as finetune_data
from protocols.finetune import recipe as finetuning
from protocols.finetune import training as finetune_training
from protocols.finetune.recipe import Classifier

NET = "random:vit_patch4_dim32_depth2_heads2_img16"
FEW: dict[str, Any] = {"batch": 16, "group": 8, "repeats": 1, "epochs": 2, "warmup_epochs": 1}


def bench(cache: Path, net: str = NET, *, seed: int = 0, bad: int = 0) -> Bench:
    checkpoint = load_checkpoint(net)
    return Bench(
        checkpoint=checkpoint, backbone=build_backbone(checkpoint), device="cpu", seed=seed, cache=cache,
        images=ImageOptions(), extraction=Extraction(workers=0, batch_size=32, skip_bad_images=bad),
    )  # fmt: skip


def small_digits(train: int = 48, test: int = 30) -> Dataset:
    whole = datasets.load("digits")
    parts = [
        images.from_arrays("digits", s.name, s.pixels[:n], s.labels[:n], s.classes)
        for s, n in ((whole.train, train), (whole.test, test))
    ]
    return Dataset(name="digits", train=parts[0], test=parts[1])


def halves(num: int = 64) -> Dataset:
    """Bright images and dark ones: what any net learns."""
    numbers = np.random.default_rng(0)
    labels = np.arange(num) % 2
    pixels = numbers.integers(0, 60, (num, 16, 16, 3)) + 190 * labels[:, None, None, None]
    split = images.from_arrays("halves", "train", pixels.astype(np.uint8), labels, ("dark", "bright"))
    return Dataset(name="halves", train=split, test=split)


def plain(job: finetune_data.Job, lr: float) -> Classifier:
    """The same training without mixing and stochastic depth: whole batches at once, AdamW by its formula in float64."""
    bench, tuning = job.bench, job.tuning
    model = finetuning.build(
        bench.checkpoint.arch, bench.checkpoint.weights, 10, tuning, position="dino", seed=bench.seed
    ).double()
    rows = np.arange(len(job.dataset.train))
    views = finetune_training.Views(
        split=job.dataset.train, rows=rows, transform=job.transform, tuning=tuning, seed=0, how=bench.extraction
    )
    rates = finetuning.learning_rates(tuning, lr, len(rows) // tuning.batch)
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    depth, t = bench.checkpoint.arch.depth, 0
    for epoch in range(tuning.epochs):
        for step in views.epoch(epoch, set()):
            x, y = torch.cat([x for _, x, _ in step]).double(), torch.cat([y for _, _, y in step])
            smooth = torch.full((len(y), 10), tuning.smoothing / 10, dtype=torch.float64)
            smooth[torch.arange(len(y)), y] += 1 - tuning.smoothing
            model.zero_grad()
            loss = -(smooth * torch.log_softmax(model(x), dim=1)).sum() / len(y)
            loss.backward()
            t += 1
            with torch.no_grad():
                for name, p in model.named_parameters():
                    if p.grad is None:
                        continue
                    block = int(name.split(".")[2]) + 1 if "blocks" in name else 0
                    at = depth + 1 if name.startswith(("net.norm", "head")) else block
                    rate = rates[t - 1] * tuning.layer_decay ** (depth + 1 - at)
                    still = p.ndim == 1 or name in ("net.cls_token", "net.pos_embed")
                    p.mul_(1 - rate * (0 if still else tuning.weight_decay))
                    first[name] = 0.9 * first[name] + 0.1 * p.grad
                    second[name] = 0.999 * second[name] + 0.001 * p.grad**2
                    p -= rate * (first[name] / (1 - 0.9**t)) / ((second[name] / (1 - 0.999**t)).sqrt() + 1e-8)
    return model.eval()


def test_it_is_a_plain_loop_over_whole_batches(tmp_path: Path) -> None:
    settings = Settings(
        recipe="imagenet", lr=(0.003,), layer_decay=0.7, mixup=0, cutmix=0, drop_path=0, **FEW
    )  # fmt: skip
    job = finetune_data.job(bench(tmp_path), small_digits(), settings)
    trained: list[dict[str, torch.Tensor]] = []
    real = Store.write_state

    def kept(self: Store, tree: Any) -> None:
        trained.append({k: t.clone() for k, t in tree["model"].items()})
        real(self, tree)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write_state", kept)
        finetune_data.train(job)
    expected = plain(job, 0.003).state_dict()
    begun = finetuning.build(
        job.bench.checkpoint.arch, job.bench.checkpoint.weights, 10, job.tuning, position="dino", seed=0
    ).state_dict()
    for name, tensor in trained[-1].items():
        moved = (tensor - begun[name]).abs().max()
        assert name == "net.mask_token" or moved > 0, name
        torch.testing.assert_close(tensor, expected[name].float(), atol=2e-5, rtol=1e-4, msg=name)


def test_it_learns(tmp_path: Path) -> None:
    settings = Settings(lr=(0.1,), epochs=4, batch=16, group=8, repeats=1, warmup_epochs=0, cutmix=0, holdout=0.1)
    outcome = finetune.run(bench(tmp_path), halves(), settings)
    found = {s.metric: s for s in outcome.scores}
    assert found["top1_best_epoch"].value == 1.0 and found["mean_per_class_best_epoch"].value == 1.0
    assert found["top1_best_epoch"].at["recipe"] == "small" and found["top1"].n == 64
    assert found["top1_chosen_lr"].at["chosen_on"] == "6 images of train, held out"
    assert found["top1"].value == 1.0  # after the last epoch too
    assert (outcome.predictions["best"] == outcome.predictions["target"]).all()
    for array, metric in (
        ("best", "ece_best_epoch"),
        ("chosen", "ece_chosen_lr"),
    ):  # all right: how far below 1 on mean
        confidence = outcome.predictions[f"{array}_confidence"].astype(float)
        assert confidence.dtype == float and (confidence > 0.5).all() and (confidence <= 1).all()
        assert found[metric].value == pytest.approx(1 - confidence.mean(), abs=1e-9) and found[metric].at["bins"] == 15


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = small_digits()
    settings = Settings(lr=(0.002, 0.02), **FEW)
    whole = finetune.run(bench(tmp_path / "whole"), digits, settings)
    real, writes = Store.write_state, []

    def full(self: Store, tree: Any) -> None:
        writes.append(1)
        if len(writes) in (2, 4):
            raise KeyboardInterrupt
        real(self, tree)

    monkeypatch.setattr(Store, "write_state", full)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            finetune.run(bench(tmp_path / "killed"), digits, settings)
    resumed = finetune.run(bench(tmp_path / "killed"), digits, settings)
    assert len(writes) == 6  # each interrupted epoch once more
    assert [asdict(s) for s in resumed.scores] == [asdict(s) for s in whole.scores]
    for name, array in whole.predictions.items():
        np.testing.assert_array_equal(resumed.predictions[name], array)


def test_the_net_that_other_protocols_see_is_left_as_it_is(tmp_path: Path) -> None:
    made = bench(tmp_path)
    x = torch.randn(2, 3, 16, 16)
    before = made.backbone.tokens(x)[0].cls
    finetune.run(made, small_digits(), Settings(lr=(0.01,), **FEW))
    assert torch.equal(made.backbone.tokens(x)[0].cls, before)


def test_best_is_by_the_data_sets_metric_over_epochs_and_rates(tmp_path: Path) -> None:
    settings = Settings(lr=(0.002, 0.05), metric="mean_per_class", **FEW)
    outcome = finetune.run(bench(tmp_path), small_digits(), settings)
    confidence, right = (
        outcome.predictions["best_confidence"],
        outcome.predictions["best"] == outcome.predictions["target"],
    )
    bins = np.ceil(confidence.astype(float) * 15)
    slow = sum(
        abs(confidence[bins == b].mean(dtype=float) - right[bins == b].mean()) * (bins == b).mean() for b in set(bins)
    )
    (error,) = [s for s in outcome.scores if s.metric == "ece_best_epoch"]
    assert error.value == pytest.approx(slow, abs=1e-9)
    history = outcome.predictions["test_score"]
    (best,) = [s for s in outcome.scores if s.metric == "mean_per_class_best_epoch"]
    h, e = np.unravel_index(int(np.argmax(history)), history.shape)
    assert (best.at["lr"], best.at["epoch"]) == ((0.002, 0.05)[h], e + 1)
    assert best.value == pytest.approx(history.max())
    recalls = [right[outcome.predictions["target"] == c].mean() for c in np.unique(outcome.predictions["target"])]
    assert best.value == pytest.approx(float(np.mean(recalls)))
    assert best.interval is not None and best.interval[0] <= best.value <= best.interval[1]


def test_what_departs_from_the_recipe_is_told(tmp_path: Path) -> None:
    def told(settings: Settings, name: str = "cifar10") -> tuple[str, tuple[str, ...]]:
        recipe, _, apart = settings.tuning(name, load_checkpoint(NET).arch)
        return recipe, apart

    assert told(Settings()) == ("small", ()) and told(Settings(), "imagenet") == ("imagenet", ())
    assert told(Settings(epochs=1000, lr=(7.5e-6,))) == ("small", ())
    assert told(Settings(epochs=3, augment="none"))[1] == ("augment none for rand-m9-mstd0.5-inc1", "epochs 3 for 1000")
    outcome = finetune.run(bench(tmp_path), small_digits(), Settings(lr=(0.01,), **FEW))
    (deviation,) = [d for d in outcome.deviations if d.kind in NOT_COMPARABLE]
    note = deviation.text
    assert "epochs 2 for 1000" in note and "lr 0.01 for 7.5e-06" in note


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lr": ()}, "--finetune.lr"), ({"lr": (0.1, 0.1)}, "each once"), ({"lr": (float("nan"),)}, "> 0"),
        ({"epochs": 0}, "--finetune.epochs"), ({"batch": -1}, "at least 1"), ({"min_lr": -1.0}, "--finetune.min-lr"),
        ({"drop_path": 1.5}, "a share of 0 to 1"), ({"mixup": float("inf")}, "at least 0"),
        ({"holdout": 0.7}, "0 to 0.5"), ({"recipe": "beit"}, "imagenet or small"), ({"augment": "x"}, "none"),
        ({"metric": "top5"}, "mean_per_class"),
    ],
)  # fmt: skip
def test_settings_that_will_not_do(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Settings(**given)


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    arch = load_checkpoint(NET).arch
    with pytest.raises(SettingsError, match="a divisor of the batch of 16"):
        Settings(batch=16, group=6).tuning("digits", arch)
    with pytest.raises(SettingsError, match="an even number"):
        Settings(batch=15, group=5).tuning("digits", arch)
    Settings(batch=15, group=5, mixup=0, cutmix=0).tuning("digits", arch)
    for batch, group in ((8, 8), (96, 96), (192, 96), (130, 26), (2, 2)):  # the group follows the batch
        _, tuning, differences = Settings(batch=batch).tuning("digits", arch)
        assert (tuning.batch, tuning.group) == (batch, group)
        assert (f"group {group} for 96" in differences) == (group != 96)
    with pytest.raises(SettingsError, match=r"even number.*; got 15; where: --finetune\.batch"):
        Settings(batch=15).tuning("digits", arch)
    with pytest.raises(DataError, match="images for one batch of 768"):
        finetune.run(bench(tmp_path), small_digits(), Settings())
    with pytest.raises(CheckpointError, match="a ViT with a class token to fine-tune"):
        finetune.check_checkpoint(load_checkpoint("pixels:8"))


def test_diverging_with_every_rate_is_an_error_and_with_one_a_note(tmp_path: Path) -> None:
    digits = small_digits()
    few = FEW | {"mixup": 0.0, "cutmix": 0.0, "warmup_epochs": 0, "recipe": "imagenet"}
    with pytest.raises(SettingsError, match="a loss that stays finite"):
        finetune.run(bench(tmp_path), digits, Settings(lr=(1e30,), **few))
    outcome = finetune.run(bench(tmp_path), digits, Settings(lr=(0.001, 1e30), **few))
    assert any("diverged and counts no longer with lr 1e+30" in note for note in outcome.notes)
    assert {s.at["lr"] for s in outcome.scores} == {0.001}


def arguments(runs: Path, cache: Path) -> list[str]:
    few = [f"--finetune.{k.replace('_', '-')}={v}" for k, v in (FEW | {"batch": 256, "group": 64, "epochs": 1}).items()]
    return ["run", NET, "--protocols", "finetune", "--data", "digits", "--finetune.lr", "0.01", *few, "--json",
            "--workers", "0", "--out", str(runs), "--cache", str(cache)]  # fmt: skip


SCRIPT = """
import sys
from evaltk import cli, distributed
with distributed.process_group():
    code = cli.main(sys.argv[1:])
sys.exit(code)
"""


@pytest.mark.slow
def test_two_processes_are_one(forks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments(tmp_path / "one", tmp_path / "cache1")) == 0
    one = json.loads(capsys.readouterr().out)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    argv = arguments(tmp_path / "two", tmp_path / "cache2")
    started = [forks.start(SCRIPT, argv, shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in range(2)]
    ended = [forks.ended(pid) for pid in started]
    assert [code for code, _, _ in ended] == [0, 0], ended
    two = json.loads(ended[0][1] or ended[1][1])
    for name in ("top1_best_epoch", "top5_best_epoch"):
        a, b = (next(s["value"] for s in found["scores"] if s["metric"] == name) for found in (one, two))
        assert a == pytest.approx(b, abs=0.004)  # sums in another order: three of 797 images at most
    assert one["request"] == two["request"]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [a for a in arguments(tmp_path / "runs", tmp_path / "cache") if a != "--json"]
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert "### Results on digits test, n = 797" in shown and "fine-tuning" in shown
    assert cli.main([*argv, "--finetune.group", "100"]) == 2
    assert "wanted a divisor of the batch of 256" in capsys.readouterr().err


def test_an_outcome_says_how_images_were_seen(tmp_path: Path) -> None:
    outcome: Outcome = finetune.run(bench(tmp_path), small_digits(), Settings(recipe="imagenet", lr=(0.01,), **FEW))
    views = outcome.views
    assert views["eval"].text.startswith("resize 16 bilinear") and "rand-m9" in views["train"].text
    assert not views["eval"].augmented and views["train"].augmented


def test_of_equal_held_out_scores_the_lowest_learning_rate() -> None:
    """Means of the same fractions, added up in another order, are one score."""
    first, other = (0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3
    assert first != other
    for held in ([0.1, first, other], [0.1, other, first], [np.nan, min(first, other), max(first, other)]):
        assert finetune_data._chosen(np.array(held)) == 1
    assert finetune_data._chosen(np.array([np.nan, np.nan])) is None
