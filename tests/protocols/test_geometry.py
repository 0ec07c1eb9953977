"""The geometry protocol by the real command, against the formulas on features extracted apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_inputs import DEIT, one_colour_per_class

import evaltk
from evaltk import cli, results
from evaltk.metrics import geometry
from evaltk.types import Result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_colour_per_class(tmp_path_factory.mktemp("geometry"), train=6, test=2)


def run(folder: Path, *argv: str) -> tuple[Result, dict[str, np.ndarray]]:
    out = folder / "runs"
    data = ["--data", f"x:imagefolder={folder / 'data'}", "--out", str(out), "--cache", str(folder / "cache")]
    assert cli.main(["run", DEIT, "--num-heads", "3", "--protocols", "geometry", *data, "--quiet", *argv]) == 0
    path, result = max(results.find(out), key=lambda found: found[0].stat().st_mtime_ns)
    return result, results.read_predictions(path)


def value(result: Result, metric: str, **at: object) -> float:
    (found,) = [s.value for s in result.scores if s.metric == metric and at.items() <= dict(s.at).items()]
    return found


def test_every_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, arrays = run(folder, "--geometry.views", "3", "--geometry.view-images", "12")
    printed = capsys.readouterr().out
    assert "geometry RankMe" in printed
    net = evaltk.load_checkpoint(DEIT, num_heads=3)
    found = evaltk.extract(net, f"x:imagefolder={folder / 'data'}", part="train")
    x = np.asarray(found.x, dtype=np.float64)
    assert value(result, "rankme") == pytest.approx(geometry.rankme(x))
    assert value(result, "rankme_share") == pytest.approx(geometry.rankme(x) / 24)
    assert value(result, "intrinsic_dimension") == pytest.approx(geometry.two_nn(x)[0])
    assert value(result, "uniformity") == pytest.approx(geometry.uniformity(x))
    norms = np.sqrt((x**2).sum(1))
    assert value(result, "norm_mean") == pytest.approx(norms.mean())
    assert value(result, "norm_variation") == pytest.approx(norms.std() / norms.mean())
    assert value(result, "dead_share") == 0
    assert 1 <= value(result, "lidar", views=3) <= 24 and 0 < value(result, "alignment") < 4
    backbone = evaltk.build_backbone(net)
    assert arrays["cka_blocks"].shape == (2, 2) and backbone.arch.depth == 2
    assert value(result, "cka_to_last", block=2) == pytest.approx(1)
    blocks = evaltk.extract(
        net, f"x:imagefolder={folder / 'data'}", part="train", recipe=evaltk.types.Recipe(last=2, norm=False)
    ).x
    wanted = geometry.linear_cka(blocks[:, :24], blocks[:, 24:])
    assert value(result, "cka_to_last", block=1) == pytest.approx(wanted) == arrays["cka_blocks"][0, 1]


def test_samples_are_drawn_and_views_left_out(folder: Path) -> None:
    result, arrays = run(folder, "--geometry.samples", "20", "--geometry.views", "0", "--geometry.no-blocks")
    assert {s.n for s in result.scores if s.metric == "rankme"} == {20} and len(arrays["norms"]) == 20
    assert not {"lidar", "alignment", "cka_to_last"} & {s.metric for s in result.scores}
    again, _ = run(folder, "--geometry.samples", "20", "--geometry.views", "0", "--geometry.no-blocks", "--again")
    assert again.scores == result.scores


@pytest.mark.parametrize(
    ("flag", "wrong"), [("samples", "9"), ("views", "1"), ("view-images", "1"), ("dead", "0"), ("pairs", "2")]
)
def test_settings(folder: Path, flag: str, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", DEIT, "--protocols", "geometry", "--data", f"x:imagefolder={folder / 'data'}"]
    assert cli.main([*argv, f"--geometry.{flag}", wrong]) == 2
    error = capsys.readouterr().err
    assert f"--geometry.{flag}" in error and len(error) < 300


def test_too_few_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_colour_per_class(tmp_path, train=1, test=1)
    argv = ["run", DEIT, "--num-heads", "3", "--protocols", "geometry", "--out", str(tmp_path / "runs")]
    assert cli.main([*argv, "--data", f"x:imagefolder={tmp_path / 'data'}"]) == 2
    assert "10 images or more; got 6" in capsys.readouterr().err
