"""evaltk.evaluate: a net in memory gives the numbers of its file, and is left as it was."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from evaluate_inputs import LOOKS, Build, Net, measured, pooled, top1
from torch import nn
from torch.nn import functional as F

import evaltk
from evaltk import cli, distributed, results
from evaltk.errors import CheckpointError, EvaltkError, ModelError, SettingsError
from evaltk.models import reached
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, Recipe, Tokens


def refused(kind: type[EvaltkError], model: Any, **more: Any) -> str:
    with pytest.raises(kind) as error:
        measured(model, **more)
    text = str(error.value)
    assert all(part in text for part in ("wanted ", "got ", "do: ")) and "\n" not in text
    return text


def test_a_resnet_in_memory_gives_what_the_command_gives_on_its_file(image_tree: Build, tmp_path: Path) -> None:
    pictures = image_tree({"train/a": 8, "train/b": 8, "test/a": 4, "test/b": 4})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.resnet18()
    net.fc = nn.Identity()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    looks = {"crop": 64, "resize": 70, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    mine = evaltk.evaluate(net, pictures, ("knn",), transform=looks, settings={"knn": {"k": (1, 3, 5)}})["knn"]
    argv = ["run", tmp_path / "net.pth", "--mean", *IMAGENET_MEAN, "--std", *IMAGENET_STD, "--knn.k", 1, 3, 5]
    argv += [
        "--resize",
        70,
        "--crop",
        64,
        "--data",
        f"data:imagefolder={pictures}",
        "--out",
        tmp_path / "runs",
        "--cache",
        tmp_path / "cache",
    ]
    assert cli.main([str(a) for a in argv]) == 0
    ((_, theirs),) = results.find(tmp_path / "runs")
    assert theirs.checkpoint["family"] == "flat" and mine.checkpoint["family"] == "memory"
    assert mine.scores == theirs.scores and {s.value for s in mine.scores if s.metric == "top1"} != {1.0}
    assert mine.data == theirs.data and mine.preprocessing.views == theirs.preprocessing.views
    assert mine.checkpoint["digest"] == reached.digest([net]) and mine.checkpoint["sha256"] == ""


def states() -> tuple[object, ...]:
    _, keys, *place = np.random.get_state()
    return random.getstate(), keys.tobytes(), place, torch.get_rng_state().numpy().tobytes()


@pytest.mark.parametrize("fails", [False, True])
def test_a_training_goes_on_as_if_nothing_had_been(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    net = Net((lambda x: x) if fails else None).train()
    net.drop.eval()
    flags = [part.training for part in net.modules()]
    before, weights = states(), {k: t.clone() for k, t in net.state_dict().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if fails:
            refused(ModelError, net)
        else:
            measured(net)
        assert torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    assert states() == before and [part.training for part in net.modules()] == flags == [True, True, True, False]
    assert all(torch.equal(t, weights[k]) for k, t in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert {seen[2:] for seen in net.seen} == {(False, False)}  # eval mode, no gradients
    assert not list(tmp_path.iterdir())


def test_numbers_do_not_depend_on_what_surrounds_the_call() -> None:
    net = Net()
    expected = top1(net)
    random.seed(5), np.random.seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert top1(net) == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert top1(net) == expected and torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_one_process_of_a_training_evaluates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*given: object, **named: object) -> None:
        raise AssertionError("it waits for others")

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    for name in ("barrier", "broadcast_object_list", "all_reduce"):
        monkeypatch.setattr(f"torch.distributed.{name}", waits)
    assert distributed.world_size() == 2
    assert 0 < top1(Net()) < 1
    assert distributed.world_size() == 2


class Holder:
    def __init__(self, model: nn.Module) -> None:
        self.model = model


@pytest.mark.parametrize("wrap", [
    lambda net: lambda x: net(x), lambda net: net.forward, lambda net: Holder(net).model.__call__,
    lambda net: (lambda held: lambda x: held.model(x))(Holder(net)), lambda net: (lambda x, f=net: f(x)),
])  # fmt: skip
def test_a_net_behind_a_function_is_in_eval_mode_too(wrap: Callable[[nn.Module], Any]) -> None:
    net = Net().train()
    function = wrap(net)
    assert top1(function) == top1(net)
    assert {seen[2] for seen in net.seen} == {False} and net.training
    assert reached.modules(function) == (net,)


def test_a_function_without_a_net_is_measured_and_says_so() -> None:
    result = measured(lambda x: x.flatten(1))["knn"]
    assert result.checkpoint["digest"] == "" and result.checkpoint["branch"] == "function"
    assert "without a net in sight" in result.notes[0]
    keys = {evaltk.extract(lambda x: x.flatten(1), "digits", transform=LOOKS, limit=5).key.sha256 for _ in range(2)}
    assert len(keys) == 2  # nothing tells that two functions are the same


OUTPUTS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "tokens": (lambda x: x.flatten(2).transpose(1, 2), r"tensor [4, 36, 8] float32.*model(x)[:, 0]"),
    "map": (lambda x: x, r"tensor [4, 8, 6, 6] float32.*model(x).mean(dim=(2, 3))"),
    "vector": (lambda x: x.mean(dim=(1, 2, 3)), r"tensor [4] float32.*returns features"),
    "tuple": (lambda x: (pooled(x), x), r"tuple of [4, 8], [4, 8, 6, 6].*lambda x: model(x)[0]"),
    "dict": (
        lambda x: {"hidden": x.flatten(2).transpose(1, 2), "pooled": None},
        r"dict with hidden: [4, 36, 8], pooled: NoneType.*model(x)['hidden'][:, 0]",
    ),
    "fewer": (lambda x: pooled(x)[:3], r"one row of features for each of 4 images; got a tensor [3, 8]"),
    "whole numbers": (lambda x: pooled(x).long(), r"tensor [4, 8] int64"),
    "numpy": (lambda x: pooled(x).numpy(), r"got ndarray"),
    "nothing": (lambda x: None, r"got NoneType"),
    "nan": (lambda x: pooled(x) / 0 * 0, r"finite features; got NaN or infinity"),
    "random": (lambda x: pooled(x) + torch.randn(len(x), 8), r"the same features.*at a second call"),
    "batch": (lambda x: pooled(F.batch_norm(x, None, None, training=True)), r"own image only.*another batch"),
    "error": (lambda x: x.no_such, r"takes images [4, 3, 16, 16] float32 on cpu; got AttributeError"),
    "odd tokens": (lambda x: Tokens(cls=pooled(x), patches=x, grid=(6, 6)), r"patches [4, h*w, D]"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_other_outputs_are_refused_with_what_to_pick(name: str) -> None:
    last, told = OUTPUTS[name]
    text = refused(ModelError, Net(last), name="mine")
    start, _, end = told.partition(".*")
    assert start in text and end in text and "where: mine" in text


def test_a_net_whose_call_changes_its_buffers_is_refused() -> None:
    class Counting(Net):
        def forward(self, x: torch.Tensor) -> Any:
            self.norm.num_batches_tracked += 1
            return super().forward(x)

    assert "a call that changes them" in refused(ModelError, Counting())


def test_nets_that_cannot_run_are_refused_before_anything_is_read() -> None:
    with torch.device("meta"):
        net = Net.__new__(Net)
        nn.Module.__init__(net)
        net.conv = nn.Conv2d(3, 8, 5)
    assert "load its weights first" in refused(ModelError, net)


def test_the_digest_is_of_every_tensor_of_the_state() -> None:
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1).half())
    net.register_buffer("map", torch.eye(3).to_sparse())
    seen = {reached.digest([net])}
    for name, tensor in net.state_dict().items():
        changed = {**net.state_dict(), name: (tensor.to_dense() if tensor.is_sparse else tensor) + 1}
        if name == "map":
            net.map = changed["map"]
        else:
            net.load_state_dict(changed)
        seen.add(reached.digest([net]))
    assert len(seen) == 1 + len(net.state_dict()) == 9
    wrapped = nn.DataParallel(Net())
    assert measured(wrapped)["knn"].checkpoint["digest"] == reached.digest([wrapped.module])


def test_the_type_of_the_weights_is_kept_and_recorded() -> None:
    net = Net().bfloat16()
    result = measured(net)["knn"]
    assert result.preprocessing.precision == "bf16 weights" and {s[1] for s in net.seen} == {torch.bfloat16}
    assert evaltk.extract(net, "digits", transform=LOOKS, limit=5).x.dtype == np.float32
    assert measured(Net().double())["knn"].preprocessing.precision == "float64"
    assert measured(Net())["knn"].preprocessing.precision == "fp32"


def test_tokens_in_memory_are_those_of_the_checkpoint() -> None:
    checkpoint = evaltk.load_checkpoint("random:vit_patch4_dim32_depth2_heads2_img16")
    backbone = evaltk.build_backbone(checkpoint)
    looks = {"crop": 16, "mean": checkpoint.mean, "std": checkpoint.std}
    for recipe in ("cls", "mean", "cls+mean"):
        theirs = evaltk.extract(checkpoint, "digits", recipe=recipe, limit=20)
        mine = evaltk.extract(lambda x: backbone.tokens(x)[0], "digits", transform=looks, recipe=recipe, limit=20)
        assert np.array_equal(mine.x, theirs.x) and mine.ids == theirs.ids
    for recipe, told in ((Recipe(last=2), "last 2 blocks"), (Recipe(norm=False), "before its final norm")):
        with pytest.raises(SettingsError, match=told):
            evaltk.extract(lambda x: backbone.tokens(x)[0], "digits", transform=looks, recipe=recipe, limit=20)
    with pytest.raises(SettingsError, match="patch tokens; got a function that gives one feature per image"):
        evaltk.extract(Net(), "digits", transform=LOOKS, recipe="mean", limit=20)


def test_protocols_that_need_more_say_so_in_a_line() -> None:
    told = refused(SettingsError, Net(), protocols=["finetune"], settings={})
    assert "whose ViT can be trained for finetune; got a function" in told
    assert "with its projection head" in refused(SettingsError, Net(), protocols=["prototypes"], settings={})
    told = refused(SettingsError, Net(), protocols=["fewshot"], settings={"fewshot": {"percent": 0, "shots": 1}})
    assert "before its final norm" in told and '{"fewshot": {"norm": "post"}}' in told
    few = measured(Net(), protocols="fewshot", settings={"fewshot": {"norm": "post", "percent": 0, "shots": 1}})
    assert few["fewshot"].scores
    assert "a dataset of sequences for vos" in refused(SettingsError, Net(), protocols=["vos"], settings={})


def test_settings_and_names_are_checked() -> None:
    assert "did you mean 'k'" in refused(SettingsError, Net(), settings={"knn": {"kk": 5}})
    assert "settings of the protocols; got linear" in refused(SettingsError, Net(), settings={"linear": {}})
    assert "in Python: settings={'knn': {'k': ...}}" in refused(SettingsError, Net(), settings={"knn": {"k": [300]}})
    assert "in Python: settings={'knn': {'k': ...}}" in refused(SettingsError, Net(), settings={"knn": {"k": 0}})
    assert "there are: clustering" in refused(SettingsError, Net(), protocols=["nearest"], settings={})
    assert "an nn.Module, a function" in refused(ModelError, 5)
    assert "batch_size=" in refused(SettingsError, Net(), batch_size=0)
    assert "on a machine with" in refused(SettingsError, Net(), device="cuda:99")


def test_checkpoints_and_names_are_measured_as_by_the_command(tmp_path: Path) -> None:
    argv = ["run", "pixels:8", "--data", "digits", "--limit", "40", "--knn.k", "1", "5"]
    assert cli.main([*argv, "--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]) == 0
    ((path, theirs),) = results.find(tmp_path / "runs")
    for model in ("pixels:8", evaltk.load_checkpoint("pixels:8")):
        mine = measured(model, transform=None)
        assert mine["knn"].scores == theirs.scores
    written = path.stat().st_mtime_ns
    named = measured("pixels:8", transform=None, out=tmp_path / "runs")  # found, not measured again
    assert named["knn"] == theirs and path.stat().st_mtime_ns == written
    head = evaltk.load_checkpoint("pixels:8")
    measured(head, transform=None, out=tmp_path / "mine")
    ((mine_path, mine),) = results.find(tmp_path / "mine")
    assert measured(head, transform=None, out=tmp_path / "mine")["knn"].made["date"] >= mine.made["date"]
    assert mine_path.stat().st_mtime_ns > written  # written again: a head in memory may be another
    with pytest.raises(SettingsError, match=r"evaltk.load_checkpoint\(path, mean=, std=\)"):
        measured(evaltk.load_checkpoint("pixels:8"))
    with pytest.raises(CheckpointError, match="no such file"):
        measured("nothing.pth", transform=None)


def test_the_front_door_opens_late() -> None:
    script = """
import sys, evaltk
assert not {"torch", "numpy", "pandas"} & set(sys.modules)
assert callable(evaltk.evaluate) and callable(evaltk.extract) and "torch" in sys.modules
assert "timm" not in sys.modules and "matplotlib" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
