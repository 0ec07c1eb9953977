"""The runner: what is done is skipped, what differs is run, and everything wrong is told before the work."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import protocols
from evaltk import claims, load_checkpoint, results
from evaltk.bench import ImageOptions
from evaltk.checkpoints import load as checkpoints
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import CheckpointError, DataError, SettingsError, StorageError
from evaltk.running import benching, runner
from evaltk.running.runner import Plan
from evaltk.types import IMAGENET_MEAN, DeviationKind, OriginProof, Result
from protocols import knn, linear

NET = "vit_patch4_dim32_depth2_heads2_img16"
Build = Callable[..., Path]
Ran = list[tuple[str, Result, bool]]


def plan_for(tmp_path: Path, **given: Any) -> Plan:
    settings = knn.Settings(k=(1, 5), choose=20)
    base = {"checkpoints": ("pixels:8",), "protocols": {"knn": settings}, "data": ("digits",)}
    return Plan(**(base | {"out": tmp_path / "runs", "cache": tmp_path / "cache"} | given))


def ran(plan: Plan) -> Ran:
    seen: Ran = []
    runner.run(plan, report=lambda job, result, skipped: seen.append((job.name, result, skipped)))
    return seen


def skipped(plan: Plan) -> list[bool]:
    return [skip for _, _, skip in ran(plan)]


@pytest.fixture
def pictures(image_tree: Build) -> Path:
    return image_tree({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 3})


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a checkpoint is an error from now on."""

    def load(*given: object, **named: object) -> object:
        raise AssertionError("a checkpoint was loaded")

    monkeypatch.setattr(checkpoints, "load", load)


def save_net(path: Path, seed: int = 0) -> Path:
    weights = load_checkpoint(f"random:{NET}@{seed}").weights
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"teacher": {f"backbone.{k}": v for k, v in weights.items()}, "epoch": 3}, path)
    return path


def test_one_result_a_checkpoint_protocol_and_data_set(tmp_path: Path, pictures: Path) -> None:
    net = save_net(tmp_path / "net.pth")
    plan = plan_for(tmp_path, checkpoints=(str(net), "pixels:8"), data=("digits", f"pics:imagefolder={pictures}"))
    plan = dataclasses.replace(plan, read=ReadOptions(num_heads=2))
    seen = ran(plan)
    assert [(name, r.data.name, skip) for name, r, skip in seen] == [
        ("net", "digits", False), ("net", "pics", False), ("pixels:8", "digits", False), ("pixels:8", "pics", False),
    ]  # fmt: skip
    files = sorted(str(path.relative_to(plan.out)).rpartition("-")[0] for path, _ in results.find(plan.out))
    assert files == ["net/knn-digits", "net/knn-pics", "pixels-8/knn-digits", "pixels-8/knn-pics"]
    result = seen[1][1]
    assert result.checkpoint["sha256"] == load_checkpoint(net, num_heads=2).sha256
    assert (result.checkpoint["family"], result.checkpoint["branch"]) == ("dino", "teacher")
    assert {s.n for s in result.scores} == {5} and {s.split for s in result.scores} == {"test"}
    assert result.settings == dataclasses.asdict(knn.Settings(k=(1, 5), choose=20))  # the protocol's and no other
    looks = result.preprocessing
    assert (looks.precision, looks.position, looks.overrides) == ("fp32", "dino", {})
    view = looks.views["eval"]
    assert (view.resize, view.crop, view.interpolation, view.mean) == (16, 16, "bicubic", IMAGENET_MEAN)
    assert view.text.startswith("resize 16 bicubic") and not view.augmented
    assert result.data.name == "pics" and result.data.sizes == {"train": 12, "test": 5}
    assert result.origin_proof is OriginProof.LAYOUT
    assert set(result.made) >= {"versions", "git", "device", "seconds", "date", "stamp"}
    assert set(result.made["versions"]) >= {"evaltk", "torch", "numpy", "pillow", "python"}
    assert json.loads(json.dumps(dataclasses.asdict(result)))["scores"][0]["metric"] == "top1"


def test_what_is_done_is_skipped_and_again_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(tmp_path)
    (first,) = ran(plan)
    with monkeypatch.context() as patch:
        patch.setattr(knn, "run", None)
        (again,) = ran(plan)
    assert again[2] is True and again[1].scores == first[1].scores
    (third,) = ran(dataclasses.replace(plan, again=True))
    assert third[2] is False and third[1].scores == first[1].scores
    assert len(list(results.find(plan.out))) == 1


def test_a_second_run_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(tmp_path)
    ran(plan)

    def load(*given: object, **named: object) -> object:
        raise AssertionError("a checkpoint was loaded")

    monkeypatch.setattr(checkpoints, "load", load)
    assert skipped(plan) == [True]


CHANGES: list[dict[str, Any]] = [
    {"protocols": {"knn": knn.Settings(k=(1, 4), choose=20)}},
    {"protocols": {"knn": knn.Settings(k=(1, 5), choose=21)}},
    {"protocols": {"knn": knn.Settings(k=(1, 5), choose=20, temperature=(0.1,))}},
    {"data": ("mine:digits",)},
    {"seed": 1},
    {"precision": "bf16"},
    {"position": "timm"},
    {"read": ReadOptions(mean=(0.5, 0.5, 0.5))},
    {"read": ReadOptions(norm_eps=1e-5)},
    {"images": ImageOptions(resize=9)},
    {"images": ImageOptions(crop=7)},
    {"images": ImageOptions(interpolation="bilinear")},
    {"skip_bad_images": 1},
    {"limit": 5},
    {"checkpoints": ("pixels:7",)},
]


def test_what_changes_a_number_makes_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [plan_for(tmp_path, **change) for change in ({}, *CHANGES)]
    paths = [job.path for plan in plans for job in runner.jobs(plan)]
    assert len(set(paths)) == len(plans)
    alike = [{"device": "cuda"}, {"batch_size": 3}, {"workers": 1}, {"again": True}, {"cache": tmp_path}]
    assert {job.path for change in alike for job in runner.jobs(plan_for(tmp_path, **change))} == {paths[0]}
    raised = dataclasses.replace(knn.PROTOCOL, version=knn.PROTOCOL.version + 1)
    monkeypatch.setattr(protocols, "registry", lambda: {"knn": raised})
    assert runner.jobs(plans[0])[0].path not in paths


def test_every_part_of_a_plan_is_in_the_request_or_changes_no_number() -> None:
    changing = {key for change in CHANGES for key in change}
    changing_nothing = {"out", "cache", "again", "device", "batch_size", "workers", "pixels"}
    changing_fingerprints = {"own"}  # see tests/evaltk/test_own_images.py
    assert {f.name for f in dataclasses.fields(Plan)} == changing | changing_nothing | changing_fingerprints


def test_other_weights_under_the_same_name(tmp_path: Path) -> None:
    first, second = save_net(tmp_path / "a" / "net.pth"), save_net(tmp_path / "b" / "net.pth", seed=1)
    plan = plan_for(tmp_path, checkpoints=(str(first), str(second)), read=ReadOptions(num_heads=2))
    seen = ran(plan)
    assert [name for name, _, _ in seen] == ["net", "net"] and len(list(results.find(plan.out))) == 2
    assert seen[0][1].scores != seen[1][1].scores
    shutil.copy(second, first)
    assert skipped(plan) == [True, True]  # known by content, not by path
    save_net(first, seed=2)
    assert skipped(plan) == [False, True]


def test_a_file_touched_in_the_data_set_is_read_again(tmp_path: Path, pictures: Path) -> None:
    plan = plan_for(tmp_path, data=(f"pics:imagefolder={pictures}",))
    (first,) = ran(plan)
    assert skipped(plan) == [True]
    os.utime(pictures / "train/a/001.png", (1, 1))
    (again,) = ran(plan)
    assert again[2] is False and again[1].made["stamp"] != first[1].made["stamp"]
    assert skipped(plan) == [True] and len(list(results.find(plan.out))) == 1


def test_a_result_of_another_request_is_not_taken_for_ours(tmp_path: Path) -> None:
    plan = plan_for(tmp_path)
    other = dataclasses.replace(plan, seed=5)
    ran(other)
    shutil.copy(runner.jobs(other)[0].path, runner.jobs(plan)[0].path)
    assert skipped(plan) == [False]


@pytest.mark.parametrize("what", ["result", "a digit", "predictions"])
def test_a_damaged_result_is_named_and_made_anew(what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_for(tmp_path)
    ran(plan)
    path = runner.jobs(plan)[0].path
    scores = results.read(path).scores
    if what == "result":
        path.write_text("{")
    elif what == "a digit":
        value = str(scores[0].value)
        path.write_text(path.read_text().replace(value, value.replace("0.", "0.1", 1), 1))
    else:
        data = bytearray(results.predictions_path(path).read_bytes())
        data[len(data) // 2] ^= 1
        results.predictions_path(path).write_bytes(data)
    assert skipped(plan) == [False]
    assert "a damaged result is made anew" in caplog.text and path.stem in caplog.text
    assert results.read(path).scores == scores and results.read_predictions(path)
    assert path.with_name(path.name + ".damaged").exists()
    assert skipped(plan) == [True]


def test_a_result_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    plan = plan_for(tmp_path)
    ran(plan)
    path = runner.jobs(plan)[0].path
    path.write_text('{"format": 3}')
    with pytest.raises(StorageError, match=rf"{path.name}.*install a newer evaltk"):
        ran(plan)
    assert path.read_text() == '{"format": 3}'


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"protocols": {"kn": knn.Settings()}}, SettingsError, "did you mean 'knn'"),
        ({"data": ("digit",)}, SettingsError, "did you mean 'digits'"),
        ({"data": ("imagefolder=/nowhere",)}, DataError, "no such folder"),
        (
            {"checkpoints": ("pixels:8", "no/such.pth")},
            CheckpointError,
            r"or a catalogue name; got no such file.*such\.pth",
        ),
        ({"checkpoints": ("pixels:8", "/")}, CheckpointError, "got a folder"),
        ({"checkpoints": ("dino_vits61",)}, CheckpointError, r"did you mean 'dino_vits16"),
        ({"protocols": {"knn": knn.Settings(k=(2000,))}}, SettingsError, "k <= 1000, the images of digits train"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(tmp_path: Path, given: dict, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        ran(plan_for(tmp_path, **given))
    assert not (tmp_path / "runs").exists() and not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("no_work")
def test_a_catalogued_checkpoint_that_was_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    with pytest.raises(CheckpointError, match="run: evaltk fetch dino_vits16"):
        ran(plan_for(tmp_path, checkpoints=("dino_vits16",)))


@pytest.mark.usefixtures("no_work")
def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a folder to write into"):
        ran(plan_for(tmp_path, out=tmp_path / "file" / "runs"))


def test_a_checkpoint_that_changes_while_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, real = save_net(tmp_path / "net.pth"), checkpoints.load
    later = save_net(tmp_path / "later.pth", seed=1).read_bytes()

    def load(*given: Any, **named: Any) -> object:
        net.write_bytes(later)  # training goes on
        return real(*given, **named)

    monkeypatch.setattr(checkpoints, "load", load)
    with pytest.raises(CheckpointError, match="the file that was there at the start"):
        ran(plan_for(tmp_path, checkpoints=(str(net),), read=ReadOptions(num_heads=2)))


def test_the_same_word_twice_is_one_job(tmp_path: Path) -> None:
    seen = ran(plan_for(tmp_path, checkpoints=("pixels:8", "pixels:8"), data=("digits", "digits")))
    assert len(seen) == 1


def test_results_come_in_the_order_asked_for(tmp_path: Path) -> None:
    ran(plan_for(tmp_path, data=("b:digits",)))
    seen = ran(plan_for(tmp_path, data=("a:digits", "b:digits", "c:digits")))
    assert [(r.data.name, skip) for _, r, skip in seen] == [("a", False), ("b", True), ("c", False)]


def test_what_another_run_took_over_meanwhile_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked, written = benching.outcomes, [], []

    def outcomes(plan: Plan, here: Any, bench: Any, **given: Any) -> Any:
        asked.append(here[0].dataset.name)
        if asked == ["a"]:  # the other run has died since, so that what it took comes back to us
            theirs = here[0].path.with_name(f"{here[0].path.name}.claim-1")
            theirs.mkdir()
            (theirs / "owner").write_text(json.dumps({"token": "x", "process": 2**30, "host": claims._host()}))
        return real(plan, here, bench, **given)

    monkeypatch.setattr(benching, "outcomes", outcomes)
    write = results.write
    monkeypatch.setattr(results, "write", lambda path, *given: (written.append(path), write(path, *given))[1])
    seen = ran(plan_for(tmp_path, data=("a:digits", "b:digits")))
    assert asked == ["a", "b", "a"] and [r.data.name for _, r, _ in seen] == ["b", "a"] and len(written) == 2
    assert not [*tmp_path.rglob("*.claim-*")]


def test_results_before_an_error_stay(tmp_path: Path, pictures: Path) -> None:
    (pictures / "test/b/000.png").write_bytes(b"broken")
    plan = plan_for(tmp_path, data=("digits", f"pics:imagefolder={pictures}"))
    with pytest.raises(DataError, match=r"test/b/000\.png"):
        ran(plan)
    assert [result.data.name for _, result in results.find(plan.out)] == ["digits"]


def test_images_left_out_are_told(tmp_path: Path, pictures: Path) -> None:
    (pictures / "test/b/000.png").write_bytes(b"broken")
    plan = plan_for(tmp_path, data=(f"pics:imagefolder={pictures}",), skip_bad_images=2)
    ((_, result, _),) = ran(plan)
    assert [(d.kind, d.text) for d in result.deviations] == [
        (DeviationKind.UNREADABLE_IMAGES, "1 unreadable images left out of test")
    ]
    assert {s.n for s in result.scores} == {4}
    path = runner.jobs(plan)[0].path
    assert results.read_predictions(path)["target"].tolist() == [0, 0, 1, 1]


def test_predictions_are_what_the_scores_say(tmp_path: Path) -> None:
    plan = plan_for(tmp_path)
    ((_, result, _),) = ran(plan)
    found = results.read_predictions(runner.jobs(plan)[0].path)
    for score in result.scores:
        if score.metric == "top1":
            predicted = found[f"k{score.at['k']}_t{score.at['temperature']}"]
            assert float((predicted == found["target"]).mean()) == pytest.approx(score.value, abs=1e-12)
            assert predicted.dtype == np.int32 and len(predicted) == score.n == 797


def test_one_pass_over_the_images_serves_all_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaltk.models.backbone import Backbone

    both = {**protocols.registry(), "twin": dataclasses.replace(knn.PROTOCOL, name="twin")}
    monkeypatch.setattr(protocols, "registry", lambda: both)
    passed: list[int] = []
    real = Backbone.features

    def counted(self: Backbone, x: torch.Tensor, recipes: tuple) -> list[torch.Tensor]:
        passed.append(len(x))
        return real(self, x, recipes)

    monkeypatch.setattr(Backbone, "features", counted)
    settings = knn.Settings(k=(1,), choose=0)
    assert len(ran(plan_for(tmp_path, protocols={"knn": settings, "twin": settings}))) == 2
    assert sum(passed) == 1797
    passed.clear()
    chosen = {"knn": settings, "linear": linear.Settings(fast=True, epochs=1, lr=(0.1,))}
    assert len(ran(plan_for(tmp_path / "other", protocols=chosen, cache=tmp_path / "other"))) == 2
    assert sum(passed) == 1797
