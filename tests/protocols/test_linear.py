"""The linear probe end to end: Lin.[C] and Lin.[D], the slice the learning rate is chosen on, heads from files."""

from __future__ import annotations

import dataclasses
import json
import math
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from linear_inputs import NET, a_bench, score, small_digits

from evaltk import cli, datasets, results
from evaltk.bench import Bench, Need
from evaltk.data.images import Dataset
from evaltk.deviations import DeviationKind
from evaltk.errors import DataError, SettingsError
from evaltk.features.extraction import Extraction
from evaltk.types import Arch, Recipe
from protocols import linear
from protocols.linear import data as linear_data

BOTH = Recipe(tokens="cls+mean")


def arch(dim: int, depth: int = 12, kind: str = "vit") -> Arch:
    return Arch(
        name="net", kind=kind, patch_size=16, embed_dim=dim, depth=depth, num_heads=6, mlp_ratio=4, img_size=224,
        norm_eps=1e-6,
    )  # fmt: skip


def test_the_defaults_are_the_references() -> None:
    found = linear.Settings()
    assert len(found.lr) == 45 and (min(found.lr), max(found.lr)) == (0.0001, 9.0)
    assert sorted(found.lr) == pytest.approx(sorted(d * 10.0**p for p in range(-4, 1) for d in range(1, 10)), rel=1e-12)
    assert (found.epochs, found.batch, found.holdout, found.fast, found.head) == (100, 256, 0.01, False, None)


def test_which_feature_lin_d_takes() -> None:
    for dim, depth, recipe, said in (
        (384, 12, Recipe(last=4), "DINO's for ViT-S)"),
        (768, 12, BOTH, "DINO's for ViT-B)"),
        (192, 12, Recipe(last=4), "taken for width 192"),
        (128, 3, Recipe(last=3), "last 3 blocks"),
        (1024, 24, BOTH, "taken for width 1024"),
    ):
        found, words = linear.dino_rule(arch(dim, depth))
        assert found == recipe and said in words
    assert linear.dino_rule(arch(2048, 16, "resnet"))[0] == Recipe()
    assert linear.Settings().recipes(arch(384)) == (Recipe(), Recipe(last=4))
    assert linear.Settings().recipes(arch(2048, 16, "resnet")) == (Recipe(),)
    grid = linear.Settings(blocks=(1, 4), pool=("none", "mean")).recipes(arch(384))
    assert grid == (Recipe(), BOTH, Recipe(last=4), Recipe(tokens="cls+mean", last=4))
    assert linear.Settings(blocks=(2,)).recipes(arch(384)) == (Recipe(last=2),)
    assert linear.Settings(pool=("mean",)).recipes(arch(384)) == (BOTH,)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lr": ()}, "--linear.lr"),
        ({"lr": (0.1, 0.0)}, "learning rates > 0"),
        ({"lr": (math.inf,)}, "learning rates > 0"),
        ({"epochs": 0}, "--linear.epochs"),
        ({"batch": 0}, "--linear.batch"),
        ({"blocks": (0,)}, "--linear.blocks"),
        ({"pool": ("max",)}, "none or mean"),
        ({"holdout": 0.6}, "--linear.holdout"),
        ({"head": "x.pth", "fast": True}, "a published head is not trained"),
        ({"head_order": "mixed"}, "--linear.head-order"),
    ],
)
def test_settings_that_will_not_do(given: dict, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        linear.Settings(**given)


def test_labels_that_will_not_do() -> None:
    digits = small_digits()
    linear.check(digits, linear.Settings())

    def changed(labels: np.ndarray) -> Dataset:
        return dataclasses.replace(digits, train=dataclasses.replace(digits.train, labels=labels))

    with pytest.raises(
        DataError, match="a label from 0 to 9 for every image; got 3 images without; where: digits train"
    ):
        linear.check(changed(np.r_[[-1, -1, 10], digits.train.labels[3:]]), linear.Settings())
    with pytest.raises(DataError, match="training images of two classes or more; got one, 0"):
        linear.check(changed(np.zeros(80, np.int64)), linear.Settings())


def test_augmented_and_fast_are_two_protocols(tmp_path: Path) -> None:
    digits, bench = small_digits(), a_bench(tmp_path)
    given = {"lr": (0.1, 2.0), "epochs": 2, "batch": 16, "holdout": 0.2}
    made = {}
    for fast in (False, True):
        settings = linear.Settings(**given, fast=fast)
        linear.prepare(bench, digits, settings)
        made[fast] = linear.run(bench, digits, settings)
        assert made[fast].scores == linear.run(bench, digits, settings).scores  # from the cache
    assert made[False].scores != made[True].scores
    for fast, outcome in made.items():
        notes = " | ".join(outcome.notes)
        said = "--linear.fast: trained on cached features without augmentation; a different protocol, usually lower"
        deviations = {d.kind: d.text for d in outcome.deviations}
        assert deviations.get(DeviationKind.NO_AUGMENTATION) == (said if fast else None)
        assert deviations[DeviationKind.EPOCHS] == "2 epochs where the protocol has 100"
        views = outcome.views
        assert views["eval"].text.startswith("resize 16 bicubic (Pillow), centre crop 16, ")
        assert views["train"].text.startswith("RandomResizedCrop 16 bilinear, area 0.08 to 1") == (not fast)
        assert views["train"].augmented == (not fast) and views["train"].crop == 16
        assert "DINO's for ViT-S, taken for width 32" in notes
        for name in ("C", "D"):
            blocks = {"C": 1, "D": 4}[name]
            chosen, best = score(outcome, f"{name}_top1"), score(outcome, f"{name}_top1_best_epoch")
            assert chosen.at["chosen_on"] == "16 images of train, held out" and chosen.at["epoch"] == 2
            assert best.at["chosen_on"] == "the reported split" and best.at["blocks"] == chosen.at["blocks"] == blocks
            swept = score(outcome, "top1", blocks=blocks, lr=chosen.at["lr"])
            assert chosen.value == swept.value <= best.value and chosen.n == 40 and chosen.interval is not None
            assert score(outcome, f"{name}_top5").value >= chosen.value
            for kind, one in (("last", chosen), ("best", best)):
                right = (outcome.predictions[f"{name}_{kind}"] == outcome.predictions["target"]).mean()
                assert float(right) == pytest.approx(one.value)
        assert outcome.predictions["top1_by_epoch"].shape == (2, 2, 2)
        assert len([s for s in outcome.scores if s.metric == "top1"]) == 4


def test_held_out_images_are_not_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from protocols.linear import training as probe_training

    digits = small_digits()
    seen: dict[bool, Any] = {}
    for fast in (False, True):
        settings = linear.Settings(lr=(0.1,), epochs=1, holdout=0.2, fast=fast)
        bench = a_bench(tmp_path / str(fast))

        def watched(sweep: object, source: Any, reported: Any, held: Any, fast: bool = fast, **rest: object) -> None:
            seen[fast] = (source.rows, held)

        with monkeypatch.context() as patch:
            patch.setattr(probe_training, "train", watched)
            linear.prepare(bench, digits, settings)
        held = linear_data.job(bench, digits, settings).held
        rows, features = seen[fast]
        assert sorted([*rows.tolist(), *held.tolist()]) == list(range(80)) and len(held) == 16
        whole = bench.features(digits.train, Need(recipe=Recipe())) if fast else None
        assert np.array_equal(features[0].y, digits.train.labels[held])
        if whole is not None:
            assert np.array_equal(features[0].x, whole.x[held])
    for one, other in zip(seen[False][1], seen[True][1], strict=True):
        np.testing.assert_allclose(one.x, other.x, rtol=1e-4, atol=1e-5)


def test_a_grid_is_told_apart_from_lin_c_and_lin_d(tmp_path: Path) -> None:
    digits, bench = small_digits(), a_bench(tmp_path)
    settings = linear.Settings(
        lr=(0.1, 1.0), epochs=2, fast=True, holdout=0.3, blocks=(1, 2, 4), pool=("none", "mean")
    )  # fmt: skip
    outcome = linear.run(bench, digits, settings)
    assert len([s for s in outcome.scores if s.metric == "top1"]) == 12
    best = score(outcome, "grid_top1_best_epoch").value
    by_epoch = outcome.predictions["top1_by_epoch"]
    assert best == pytest.approx(float(by_epoch.max())) and by_epoch.shape == (2, 6, 2)
    assert score(outcome, "C_top1").at["blocks"] == 1 and score(outcome, "D_top1").at["blocks"] == 4
    assert score(outcome, "D_top1").at["pool"] == "none"
    tiny = linear.run(bench, digits, dataclasses.replace(settings, lr=(1e-9, 2e-9, 0.1), blocks=(1,), pool=None))
    assert ("linear: C chose the largest of its learning rates: more beyond it may be better" in tiny.notes) == (
        score(tiny, "C_top1").at["lr"] == 0.1
    )
    assert score(tiny, "C_top1").at["lr"] == 0.1  # two epochs at a billionth teach nothing
    only = linear.run(bench, digits, dataclasses.replace(settings, blocks=(2,), pool=None))
    assert {s.metric.split("_")[0] for s in only.scores} == {"grid", "top1"}


def test_without_a_slice_only_the_papers_figure_is_given(tmp_path: Path) -> None:
    settings = linear.Settings(lr=(0.1, 1e38), epochs=1, batch=8, fast=True, holdout=0.0)
    outcome = linear.run(a_bench(tmp_path), small_digits(), settings)
    assert not [s for s in outcome.scores if s.metric in ("C_top1", "D_top1")]
    assert score(outcome, "C_top1_best_epoch").at["lr"] == 0.1
    assert any(note.startswith("linear: no images held out") for note in outcome.notes)
    (lost,) = [note for note in outcome.notes if "diverged" in note]
    assert lost.startswith("2 heads diverged and count no longer: lr 1e+38 on cls/last1/normed in epoch 1, ")


def test_what_a_training_depends_on_names_it(tmp_path: Path) -> None:
    digits, bench = small_digits(), a_bench(tmp_path)
    base = linear.Settings()

    def name(settings: linear.Settings, bench: Bench = bench, data: Dataset = digits) -> str:
        return linear_data.job(bench, data, settings).store.key.digest()

    others = [
        dataclasses.replace(base, **{key: value})  # type: ignore[arg-type]
        for key, value in (
            ("lr", (0.1,)), ("epochs", 3), ("batch", 7), ("blocks", (2,)), ("holdout", 0.2), ("fast", True),
        )
    ]  # fmt: skip
    names = [name(base), *map(name, others), name(base, a_bench(tmp_path, seed=1)), name(base, data=small_digits(79))]
    assert len(set(names)) == len(names)
    assert (
        name(base)
        == name(dataclasses.replace(base, lr=tuple(reversed(base.lr))))
        == name(base, a_bench(tmp_path / "x"))
    )


def test_an_unreadable_image_left_out_is_told(image_tree: Callable[..., Path], tmp_path: Path) -> None:
    root = image_tree({f"{s}/{c}": n for s, n in (("train", 12), ("test", 4)) for c in ("cat", "dog")})
    photos = datasets.load(f"photos:imagefolder={root}")
    settings = linear.Settings(lr=(0.1,), epochs=1, holdout=0.1)
    held = linear_data.job(a_bench(tmp_path), photos, settings).held
    bad = next(i for i in range(24) if i not in held)
    (root / photos.train.image_id(bad)).write_bytes(b"no image")
    bench = a_bench(tmp_path / "none")
    with pytest.raises(DataError, match=r"at most 0 unreadable images in photos train; got 1"):
        linear.run(bench, photos, settings)
    (root / photos.train.image_id(int(held[0]))).write_bytes(b"no image")
    one, two = (
        dataclasses.replace(bench, cache=tmp_path / "two", extraction=Extraction(workers=0, skip_bad_images=n))
        for n in (1, 2)
    )
    for fast in (False, True):
        asked = dataclasses.replace(settings, fast=fast)
        with pytest.raises(DataError, match="at most 1 unreadable images in photos train; got 2"):
            linear.run(one, photos, asked)
        deviations = linear.run(two, photos, asked).deviations
        assert "2 unreadable images left out of train" in [d.text for d in deviations]


def test_the_command_line_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path / "home"))
    folders = ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache"), "--json"]
    fast = ["run", "pixels:8", "--data", "digits", "--protocols", "linear", "--linear.fast", *folders]
    assert cli.main([*fast, "--linear.epochs", "10", "--linear.holdout", "0.1"]) == 0
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    found = {s["metric"]: s for s in line["scores"] if s["metric"] != "top1"}
    assert found["C_top1"]["value"] > 0.9 and found["C_top1"]["at"]["chosen_on"] == "100 images of train, held out"
    assert found["C_top1_best_epoch"]["value"] >= found["C_top1"]["value"]
    assert found["D_top1"]["value"] == found["C_top1"]["value"]  # pixels have no blocks to choose from
    assert [d["kind"] for d in line["deviations"]] == ["no-augmentation", "epochs"]
    assert set(line["preprocessing"]["views"]) == {"eval", "train"}
    head = tmp_path / "head.pth"
    command = ["run", "pixels:8", "--data", "digits", "--protocols", "linear", "--linear.head", str(head), *folders]
    assert cli.main(command) == 2 and "a file with a linear head" in capsys.readouterr().err
    values = []
    for seed in (0, 0, 1):  # the second time all is done; another file under the same name is another request
        stream = torch.Generator().manual_seed(seed)
        torch.save({"fc.weight": torch.randn(10, 192, generator=stream), "fc.bias": torch.zeros(10)}, head)
        assert cli.main(command) == 0
        (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
        values.append((line["skipped"], line["scores"][0]["value"]))
    assert [skipped for skipped, _ in values] == [False, True, False] and values[0][1] == values[1][1] != values[2][1]
    head.write_bytes(b"<html>gone</html>")
    assert cli.main(command) == 2
    err = capsys.readouterr().err
    assert "a web page" in err and err.count("\n") == 1
    assert len(list(results.find(tmp_path / "runs"))) == 3


SCRIPT = """
import sys
from evaltk import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_share_the_images_and_give_one_result(forks: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["run", NET, "--data", "digits", "--protocols", "linear", "--linear.epochs", "1", "--linear.lr", "0.1"]
    command += ["1", "--linear.batch", "300", "--json", "--batch-size", "50"]
    for name, world in (("one", 1), ("two", 2)):
        folders = ["--out", tmp_path / name, "--cache", tmp_path / f"{name}.cache"]
        shared = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started = [
            forks.start(SCRIPT, [*command, *folders], shared | {"RANK": r, "LOCAL_RANK": r}) for r in range(world)
        ]
        ended = [forks.ended(pid) for pid in started]
        assert [code for code, _, _ in ended] == [0] * world, ended
    ((_, one),), ((_, two),) = (list(results.find(tmp_path / name)) for name in ("one", "two"))
    assert [(s.metric, s.at, s.n) for s in one.scores] == [(s.metric, s.at, s.n) for s in two.scores]
    assert [s.value for s in two.scores] == pytest.approx([s.value for s in one.scores], abs=2 / 797)


def test_a_stand_in_for_the_bench_is_enough_for_features_that_are_no_numbers(tmp_path: Path) -> None:
    digits, bench = small_digits(), a_bench(tmp_path)
    settings = linear.Settings(lr=(0.1,), epochs=1, fast=True)

    def features(split: Any, need: Need) -> Any:
        found = bench.features(split, need)
        if split.name == "train":
            x = np.array(found.x)
            x[5] = np.nan
            found = dataclasses.replace(found, x=x)
        return found

    broken = SimpleNamespace(
        **{f.name: getattr(bench, f.name) for f in dataclasses.fields(bench)},
        transform=bench.transform, prepare=bench.prepare, features=features,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"finite features; got NaN or infinity in 1 of .*image 5"):
        linear.run(broken, digits, settings)  # type: ignore[arg-type]
