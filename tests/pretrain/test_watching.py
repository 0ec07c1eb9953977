"""Collapse named as it begins and stopped if asked; what a terminal shows; what else a run is logged to."""

from __future__ import annotations

import json
import logging
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from small_run import lines, photos, spoil, train

from evaltk.checkpoints.load import load_checkpoint
from evaltk.errors import SettingsError
from evaltk.progress import log
from pretrain import collapse, live, logfile, loop, recipe, trackers

LOG_K = math.log(512)


def signs_of(*values: dict[str, float]) -> list[list[str]]:
    """The signs, line after line."""
    history, told = collapse.History(), []
    for step, line in enumerate(values):
        found = collapse.signs({"step": step, "log_k": LOG_K} | line, history)
        history.add(line, found)
        told.append([sign.text for sign in found])
    return told


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"teacher_entropy": 4.0, "loss": 5.0}, {"teacher_entropy": 6.0, "loss": 6.1}, "entropy rises to 6.000"),
        ({"teacher_entropy": 4.0, "loss": 5.0}, {"teacher_entropy": 6.0, "loss": 5.0}, None),
        ({"teacher_entropy": 6.0, "loss": 6.1}, {"teacher_entropy": 6.0, "loss": 6.1}, None),  # as runs begin
        ({"prototypes_used": 400, "teacher_entropy": 2.0}, {"prototypes_used": 39, "teacher_entropy": 2.0}, "39 proto"),
        ({"prototypes_used": 400, "teacher_entropy": 2.0}, {"prototypes_used": 41, "teacher_entropy": 2.0}, None),
        ({"feature_rank": 40.0}, {"feature_rank": 9.9}, "effective rank of features falls to 9.9, from 40.0"),
        ({"feature_rank": 40.0}, {"feature_rank": 10.1}, None),
        ({"feature_rank": 2.0}, {"feature_rank": 1.4}, "features have an effective rank of 1.40"),
        ({"kappa_median": 30.0}, {"kappa_median": 2.9}, "median kappa falls to 2.9, from 30"),
        ({"kappa_median": 10.0}, {"kappa_median": 1001.0}, "median kappa grows to 1e+03, from 10"),
        ({"kappa_median": 10.0}, {"kappa_median": 900.0}, None),
    ],
)
def test_collapse_is_named_as_it_begins(before: dict[str, float], now: dict[str, float], said: str | None) -> None:
    first, second = signs_of(before, now)
    assert not first and (not second if said is None else len(second) == 1 and said in second[0]), second


def test_a_collapse_has_to_last() -> None:
    history = collapse.History()
    uniform: dict[str, Any] = {"step": 9, "log_k": LOG_K, "teacher_entropy": LOG_K, "loss": LOG_K}
    fine = uniform | {"teacher_entropy": 3.0}
    lasting = []
    for line in (uniform, uniform, fine, uniform, uniform, {"step": 9, "log_k": LOG_K}, uniform):
        found = collapse.signs(line, history)
        history.add(line, found)
        lasting.append(any(history.lasts(sign) for sign in found))
    assert lasting == [False] * 6 + [True]  # a line that does not tell the entropy changes nothing


UNIFORM = ["method.teacher_temp=5.0", "method.teacher_temp_end=5.0", "method.student_temp=1.0"]


def test_a_collapsed_run_stops_if_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = photos(tmp_path / "d")
    assert train(data, tmp_path / "on", *UNIFORM) == 0
    assert "the teacher is uniform" in caplog.text and "what helps: lower method.teacher_temp" in caplog.text
    with pytest.raises(
        loop.Collapsed, match=r"got step 3: the teacher is uniform .*lower method\.teacher_temp"
    ) as error:
        train(data, tmp_path / "off", *UNIFORM, stop_on_collapse=True)  # its last layer is frozen in epoch 0
    assert error.value.exit_code == 2 and len(str(error.value)) < 300
    last = lines(tmp_path / "off")[-1]
    assert (last["event"], last["step"]) == ("collapsed", 3) and last["what"].startswith("the teacher is uniform")


def test_a_healthy_run_is_not_stopped(tmp_path: Path) -> None:
    sets = ["method.center_momentum=0.5", "method.num_prototypes=64"]
    assert train(photos(tmp_path / "d"), tmp_path / "out", *sets, recipe="cifar10_dino_vmf", stop_on_collapse=True) == 0


VALUES = {
    "step": 1200, "epoch": 2, "loss": 5.3121, "teacher_entropy": 4.2, "won_share": 0.5, "num_prototypes": 1024,
    "unique_prototypes": 1000, "largest_duplicate_set": 12, "kappa_median": 24.13, "knn": 0.742,
    "images_per_second": 1320.4, "seconds_left": 11520,
}  # fmt: skip


def test_the_line_in_the_terminal() -> None:
    parts = live.items(VALUES, steps=40_000, epochs=100)
    assert "   ".join(parts) == (
        "step 1,200/40,000   epoch 3/100   loss 5.312   entropy 4.200   used 512   unique 1,000   largest set 12   "
        "kappa 24.1   k-NN 74.2 %   1,320 images/s   3 h 12 min left"
    )
    for width in (40, 80, 120, 300):
        rows = live.folded(parts, width)
        assert "   ".join(rows) == "   ".join(parts) and all(len(row) < width for row in rows)
    assert live.items({}, steps=10, epochs=1) == ["step 0/10", "epoch 1/1"]


def test_messages_stand_above_the_line_and_it_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    handler = logging.StreamHandler(screen)
    monkeypatch.setattr(log, "handlers", [handler])
    level = log.level
    log.setLevel(logging.INFO)
    with live.shown(steps=10, epochs=1) as line:
        assert line is not None
        line.add({"loss": 2.5, "knn": None})
        line.at(1, 0)
        log.warning("something happened")
    assert handler.stream is screen
    text = screen.getvalue()
    assert "step 1/10   epoch 1/1   loss 2.500" in text and "something happened" in text and "k-NN" not in text
    log.setLevel(level)


def test_values_that_are_not_finite_are_null_in_the_log(tmp_path: Path) -> None:
    logfile.append(tmp_path / "log.jsonl", {"step": 1, "a": math.inf, "b": math.nan, "c": 2.0})
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, "a": None, "b": None, "c": 2.0}
    assert list(logfile.unfinite({"a": math.inf, "b": 1.0, "c": "x"})) == ["a"]


def test_an_edited_log_does_not_keep_a_run_from_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = photos(tmp_path / "d")
    assert train(data, tmp_path / "out", "optim.epochs=1") == 0
    with (tmp_path / "out" / "log.jsonl").open("a") as stream:
        stream.write('{"step": 0, "log_k": "x", "teacher_entropy": [1], "epoch": null, "loss": "y"}\n')
        stream.write('{"step": 1, "knn": 1e999}\n[1]\n')
    assert train(data, tmp_path / "out", "optim.epochs=1") == 0


class FakeWriter:
    """Stands for TensorBoard, which fails at step 3."""

    made: list[Any] = []  # noqa: RUF012

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.written = folder, purge_step, list[tuple[str, float, int]]()
        FakeWriter.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if step == 3:
            raise OSError("disk full")
        self.written.append((name, value, step))

    def flush(self) -> None: ...
    def close(self) -> None: ...


def test_tensorboard_if_asked_and_its_failure_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    data = photos(tmp_path / "d")
    assert train(data, tmp_path / "without") == 0 and not FakeWriter.made
    dropped = load_checkpoint(tmp_path / "without" / "checkpoint.pth").dropped  # of images in a folder
    assert dropped["image_files"] == "bookkeeping"
    assert train(data, tmp_path / "out", log="tensorboard") == 0
    (writer,) = FakeWriter.made
    assert {step for _, _, step in writer.written} == {0, 1, 2} and writer.purge_step == 0
    logged = {line["step"]: line for line in lines(tmp_path / "out")}
    assert all(logged[step][name] == value for name, value, step in writer.written)
    assert {"loss", "teacher_entropy", "kappa_median"} <= {name for name, _, _ in writer.written}
    assert caplog.text.count("tensorboard fails and is left out") == 1
    FakeWriter.made.clear()


def test_a_tracker_that_is_not_installed_is_a_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SettingsError, match=r"wanted wandb.*--log.*pip install wandb"):
        trackers.begin("wandb", tmp_path, recipe.load("digits_dino_vmf"), 0)
    broken = types.ModuleType("wandb")
    monkeypatch.setitem(sys.modules, "wandb", broken)
    with pytest.raises(SettingsError, match="WANDB_MODE=offline"):
        trackers.begin("wandb", tmp_path, recipe.load("digits_dino_vmf"), 0)


def test_what_a_step_was_not_taken_for_is_not_shown_as_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda state: state.position.step == 1, lambda output, state: output_of(output))
    assert train(photos(tmp_path / "d"), tmp_path / "out", "optim.epochs=1", on_nan="skip") == 0
    assert [("loss" in line, line.get("event")) for line in lines(tmp_path / "out")] == [
        (True, None), (False, "skipped"), (True, None), (False, None),
    ]  # fmt: skip


def output_of(output: Any) -> Any:
    import dataclasses

    return dataclasses.replace(output, loss=output.loss * math.nan)
