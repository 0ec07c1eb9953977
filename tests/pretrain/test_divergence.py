"""A step that is not finite is named, skipped or rolled back; the run resumes to the same bits all the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import lines, photos, same, spoil, tensors, train

from evaltk.errors import SettingsError
from pretrain import finite, loop
from pretrain.data.loader import Order
from pretrain.monitor import Monitor
from pretrain.watching import Watching

NAN = float("nan")


def in_loss(output: Any, state: Any) -> Any:
    return dataclasses.replace(output, loss=output.loss * NAN)


def in_term(output: Any, state: Any) -> Any:
    return dataclasses.replace(output, parts={"good": output.loss.detach(), "loss_patch": output.loss.detach() / 0})


def in_teacher(output: Any, state: Any) -> Any:
    return dataclasses.replace(output, teacher=output.teacher.index_fill(0, torch.tensor([2, 6]), NAN))


def in_gradient(output: Any, state: Any) -> Any:
    weight = state.network.backbone.blocks[0].mlp.fc1.weight
    handle = weight.register_hook(lambda grad: (handle.remove(), grad * NAN)[1])
    return output


def in_center(output: Any, state: Any) -> Any:
    state.centers = {"cls": state.centers["cls"] + float("inf")}
    return output


KINDS = {
    "loss": (in_loss, "NaN in the loss"),
    "term": (in_term, "infinity in the loss term loss_patch"),
    "teacher": (in_teacher, "NaN in the teacher's scores"),
    "gradient": (in_gradient, "NaN in the gradient of backbone.blocks.0.mlp.fc1.weight"),
    "centre": (in_center, "infinity in the centre cls"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_thing_that_is_not_finite_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, said = KINDS[kind]
    spoil(monkeypatch, lambda state: state.position.step == 4, how)
    with pytest.raises(loop.Diverged) as error:
        train(photos(tmp_path / "d"), tmp_path / "out")
    text = str(error.value)
    assert f"step 4: {said}" in text and error.value.exit_code == 2 and len(text) < 300
    assert "lower optim.lr (0.002)" in text and "checkpoint" not in text  # there is none yet
    *steps, last = lines(tmp_path / "out")
    assert [line["step"] for line in steps] == [0, 1, 2, 3]
    assert (last["event"], last["step"], last["what"][: len(said)]) == ("diverged", 4, said)
    assert len(last["images"]) == 4 and all((tmp_path / "d" / name).exists() for name in last["images"])
    if kind == "teacher":  # rows 2 and 6 of two views of four images are one image's
        order = [index for _, index in list(Order(count=12, batch=4, seed=0).epoch(1))[1]]
        assert last["images"][0].endswith(f"{order[2]:02d}.png")


def test_the_checkpoint_that_there_is_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda state: state.position.step == 4, in_loss)
    with pytest.raises(loop.Diverged, match=r"the last good checkpoint is .*out/checkpoint\.pth"):
        train(photos(tmp_path / "d"), tmp_path / "out", "run.save_minutes=0")
    assert all(bool(torch.isfinite(t).all()) for t in tensors(tmp_path / "out").values())


def test_advice_is_about_what_is_set() -> None:
    from pretrain import recipe

    hot = recipe.load("cifar10_dino", ["method.student_temp=0.001", "run.precision=bf16", "optim.clip=0.0"])
    assert finite.advice(hot).startswith("raise method.student_temp (0.001), lower optim.lr (")
    assert "run.precision=fp32 (bf16)" in finite.advice(hot)
    plain = recipe.load("cifar10_dino", ["run.precision=fp32", "optim.clip=0.0"])
    assert finite.advice(plain).endswith("optim.clip=3 (off)")
    thin = recipe.load("cifar10_dino", ["run.precision=fp32", "data.std=[1e-9, 0.2, 0.2]"])
    assert finite.advice(thin, step=0) == "check data.std (1e-09)"  # nothing has been trained yet


@pytest.mark.parametrize("method", ["dino", "msn"])
def test_a_skipped_step_changes_nothing(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the weights, the moments, the centres, nor BatchNorm's statistics."""
    sets = ["method.name=msn", "method.scoring=cosine", "optim.freeze_last_layer=0"] if method == "msn" else []
    real, seen = loop.train_step, []

    def watched(batches: Any, state: Any, *args: Any, **kw: Any) -> Any:
        if state.position.step == 4:
            handle = state.network.backbone.patch_embed.proj.weight.register_hook(lambda grad: grad * NAN)
        before = snapshot(state)
        record = real(batches, state, *args, **kw)
        if state.position.step == 4:
            handle.remove()
        after = snapshot(state)
        equal = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
        seen.append((record.taken, equal))
        return record

    monkeypatch.setattr(loop, "train_step", watched)
    assert train(photos(tmp_path / "d"), tmp_path / "out", *sets, on_nan="skip") == 0
    assert seen == [(True, False)] * 4 + [(False, True)] + [(True, False)] * 4


def snapshot(state: Any) -> dict[str, torch.Tensor]:
    tree = {f"student.{k}": v for k, v in state.network.state_dict().items()}
    tree |= {f"teacher.{k}": v for k, v in state.teacher.state_dict().items()} | state.centers
    for number, moments in enumerate(state.optimizer.state.values()):
        tree |= {f"{number}.{k}": v for k, v in moments.items()}
    return {name: tensor.clone() for name, tensor in tree.items()}


@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_past_nan_a_run_is_the_same_to_the_bit_wherever_it_is_stopped(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = photos(tmp_path / "d")

    def troubled(state: Any) -> bool:  # in the order the run begins with alone
        return state.position.step == 4 and not state.incidents.reorders

    spoil(monkeypatch, troubled, in_loss)
    sets = ["run.save_minutes=1000", "run.keep_every=1"]  # checkpoints after each epoch of three steps
    assert train(data, tmp_path / "whole", *sets, on_nan=mode) == 0
    found = [line for line in lines(tmp_path / "whole") if "event" in line]
    if mode == "skip":
        assert [(line["event"], line["step"]) for line in found] == [("skipped", 4)]
        assert "step 4 is skipped (1 of at most 20)" in caplog.text
    else:
        assert [(line["event"], line["step"], line["diverged_at"]) for line in found] == [("rolled back", 3, 4)]
        assert "back to step 3 (1 of at most 3 times)" in caplog.text
    steps = [line["step"] for line in lines(tmp_path / "whole") if "loss" in line]
    assert steps == [step for step in range(9) if step != 4 or mode == "rollback"]
    real = loop.train_step
    for stop in (5, 7) if mode == "skip" else (5,):  # after it, and an epoch later

        def stopping(*args: Any, at: int = stop, **kw: Any) -> Any:
            record = real(*args, **kw)
            return dataclasses.replace(record, stop=record.step + 1 == at)

        out = tmp_path / f"stopped-{stop}"
        monkeypatch.setattr(loop, "train_step", stopping)
        codes = [train(data, out, *sets, on_nan=mode)]
        monkeypatch.setattr(loop, "train_step", real)
        codes.append(train(data, out, *sets, on_nan=mode))
        assert codes == [loop.REQUEUE, 0]
        assert same(tmp_path / "whole", out)
    skipped = [line.get("skipped") for line in lines(tmp_path / "whole")]
    assert skipped[-1] == (1 if mode == "skip" else None)


def test_skipping_and_rolling_back_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = photos(tmp_path / "d")
    spoil(monkeypatch, lambda state: state.position.step % 3 == 1, in_loss)
    with pytest.raises(loop.Diverged, match=r"step 4: .*; 1 steps were skipped before"):
        train(data, tmp_path / "a", on_nan="skip", nan_limit=1)
    with pytest.raises(loop.Diverged, match=r"step 1: .*; after 2 rollbacks"):
        train(data, tmp_path / "b", on_nan="rollback", nan_limit=2)
    events = [(line["event"], line["step"]) for line in lines(tmp_path / "b") if "event" in line]
    assert events == [("rolled back", 0)] * 2
    spoil(monkeypatch, lambda state: state.position.step > 1, in_loss)
    with pytest.raises(loop.Diverged, match="5 steps on end were skipped, which does not help"):
        train(data, tmp_path / "c", on_nan="skip")
    for wrong in ({"nan_limit": 3}, {"on_nan": "skip", "nan_limit": -1}):
        with pytest.raises(SettingsError, match="--nan-limit"):
            Watching(**wrong)


def test_a_reordered_run_visits_every_image_once() -> None:
    plain = Order(count=23, batch=4, seed=3)
    again = dataclasses.replace(plain, reorders=(7, 7, 12))  # five steps an epoch: epochs 1 and 2
    for epoch in range(4):
        one, other = list(plain.epoch(epoch)), list(again.epoch(epoch))
        begun = {0: 5, 1: 2}.get(epoch, 0)
        assert one[:begun] == other[:begun] and (one[begun:] != other[begun:] or begun == 5)
        images = [image for step in other for _, image in step]
        assert len(set(images)) == len(images) == 20
        assert list(again.epoch(epoch, start=3)) == other[3:]
    once = dataclasses.replace(plain, reorders=(7,))
    assert list(once.epoch(1)) != list(again.epoch(1))


def test_values_that_no_checkpoint_could_be_resumed_from_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.train_step

    def spoiling(batches: Any, state: Any, *args: Any, **kw: Any) -> Any:
        record = real(batches, state, *args, **kw)
        if record.step == 2:  # the end of the epoch, before its checkpoint
            next(iter(state.optimizer.state.values()))["exp_avg_sq"].fill_(float("inf"))
        return record

    monkeypatch.setattr(loop, "train_step", spoiling)
    with pytest.raises(loop.Diverged, match=r"infinity in the optimizer's exp_avg_sq of \S+ after 3 steps"):
        train(photos(tmp_path / "d"), tmp_path / "out", "run.keep_every=1")
    assert not (tmp_path / "out" / "checkpoint.pth").exists()


def test_gradients_too_large_to_square_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW would keep an infinite second moment, and that weight would never move again."""

    def huge(output: Any, state: Any) -> Any:
        handle = state.network.backbone.norm.weight.register_hook(lambda grad: (handle.remove(), grad * 0 + 1e30)[1])
        return output

    spoil(monkeypatch, lambda state: state.position.step == 2, huge)
    data = photos(tmp_path / "d")
    with pytest.raises(loop.Diverged, match=r"step 2: \S.* in the gradient of backbone\.norm\.weight"):
        train(data, tmp_path / "a", "optim.clip=0.0")


def test_features_of_the_monitor_that_are_not_finite_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Monitor._evaluate_features

    def spoiled(self: Any, teacher: Any) -> Any:
        tokens = teacher.tokens
        object.__setattr__(teacher, "tokens", lambda x: tokens(x) * NAN)
        try:
            return real(self, teacher)
        finally:
            object.__delattr__(teacher, "tokens")

    monkeypatch.setattr(Monitor, "_evaluate_features", spoiled)
    with pytest.raises(loop.Diverged, match=r"step 0: NaN in the monitor's features of 8 of 8 images.*[ab]/\d\d\.png"):
        train(photos(tmp_path / "d"), tmp_path / "out", "run.knn=8")


def test_the_verdict_reads_once_whatever_the_number_of_tensors() -> None:
    x = torch.ones(3)
    reads: list[str] = []

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "_local_scalar_dense" in str(func) or "item" in str(func):
                reads.append(str(func))
            return func(*args, **(kwargs or {}))

    with Counting():
        fine = finite.verdict(x.sum(), [x] * 50, [x] * 50, stop=False, unreadable=False)
    assert len(reads) <= 1 and fine.loss == 3.0 and fine.values and fine.gradients
    bad = finite.verdict(x.sum(), [x, x / 0], [x, x * NAN], stop=True, unreadable=True)
    assert (bad.values, bad.gradients, bad.stop, bad.unreadable) == (False, False, True, True)
