"""Figures of scores: what is plotted equals the results, and what does not belong together has figures of its own."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from result_files import knn, made, retrieval, vos, write

from evaltk.types import Result, Score
from reports.figures import scores, style, training_log, trajectories
from reports.figures.style import Drawn
from reports.page.alt_texts import describe_figure
from reports.page.figures import inline


def drawn(*results: Result, logs: dict | None = None) -> dict[str, Drawn]:
    return {one.name: one for one in scores.of_results(results, logs=logs or {})}


def texts(figure: Figure) -> set[str]:
    root = ET.fromstring(style.render(figure, "svg"))
    return {"".join(e.itertext()).strip() for e in root.iter("{http://www.w3.org/2000/svg}text")}


def swept(name: str, values: dict[int, float], temperature: float = 0.07, **given: object) -> Result:
    scores = [
        Score(dataset="digits", split="test", metric="top1", value=v, n=100, at={"k": k, "temperature": temperature},
              interval=(v - 0.02, v + 0.03))
        for k, v in values.items()
    ]  # fmt: skip
    return made(name, "knn", "digits", scores, settings={"k": list(values)}, **given)  # type: ignore[arg-type]


def fewshot(name: str) -> Result:
    scores = []
    for shots, value in ((1, 0.5), (5, 0.7), ("1 %", 0.8)):
        at = {"shots": shots, "penalty": 0.075, "images": "drawn"}
        base = {"dataset": "cifar10", "split": "test", "at": at}
        scores += [Score(metric="top1_mean", value=value, n=900, **base)]  # type: ignore[arg-type]
        scores += [Score(metric="top1_std_sample", value=0.04, n=3, **base)]  # type: ignore[arg-type]
    return made(name, "fewshot", "cifar10", scores)


def epochs(name: str, epoch: int, value: float, **given: object) -> Result:
    return knn(name, value, dataset="digits", n=100, epoch=epoch, request=f"{name}{epoch}{given}", **given)  # type: ignore[arg-type]


def lines(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """{label: (x, y)} of the lines with markers and error bars in the first panel."""
    axes = figure.axes[0]
    found = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        line = handle[0] if isinstance(handle, tuple) else handle
        found[label] = (list(line.get_xdata()), list(line.get_ydata()))
    return found


def test_knn_against_k() -> None:
    figure = drawn(swept("net a", {200: 0.5, 5: 0.8, 20: 0.7}), swept("net b", {5: 0.6, 20: 0.65}))["knn-digits"].figure
    found = lines(figure)
    assert found["net a"][1] == pytest.approx([80, 70, 50]) and found["net b"][1] == pytest.approx([60, 65])
    steps = np.array([0, np.log2(20 / 5), np.log2(200 / 5)])  # a step for each doubling of k
    assert np.abs(np.array(found["net a"][0]) - steps).max() < 0.1
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["5", "20", "200"]
    first = figure.axes[0].containers[0]
    low = [segment[0][1] for segment in first[2][0].get_segments()]
    assert low == pytest.approx([78, 68, 48])
    assert {"net a", "net b", "neighbours k", "error bars: 95 % intervals"} <= texts(figure)


def test_temperatures_have_lines_of_their_own() -> None:
    both = swept("net", {5: 0.8, 20: 0.7})
    other = swept("net", {5: 0.4, 20: 0.3}, temperature=0.1)
    found = lines(drawn(replace(both, scores=both.scores + other.scores))["knn-digits"].figure)
    assert found["net, temperature 0.07"][1] == pytest.approx([80, 70])
    assert found["net, temperature 0.1"][1] == pytest.approx([40, 30])


def test_shots_with_their_deviation_and_a_share_last() -> None:
    figure = drawn(fewshot("net"))["fewshot-cifar10"].figure
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["1", "5", "1 %"]
    drawn_ends = [
        [[point[1] for point in segment] for segment in container[2][0].get_segments()]
        for container in figure.axes[0].containers
    ]
    # No line leads from 5 images per class to 1 % of all images: the share is a container of its own.
    assert drawn_ends == [[pytest.approx([46, 54]), pytest.approx([66, 74])], [pytest.approx([76, 84])]]
    assert "error bars: ± std over splits" in texts(figure)


def test_results_that_do_not_belong_together_share_no_figure() -> None:
    found = drawn(swept("net", {5: 0.8}), swept("net", {5: 0.7}, version=2), swept("old", {5: 0.6}, seed=3))
    assert sorted(found) == ["knn-digits", "knn-digits-2", "knn-digits-3"]
    assert "protocol version 2" in found["knn-digits-2"].title and "seed 3" in found["knn-digits-3"].title


def test_many_series_have_the_best_named() -> None:
    found = [swept(f"net {i:02d}", {5: i / 100, 20: i / 100}) for i in range(30)]
    said = texts(drawn(*found)["knn-digits"].figure)
    assert "23 others" in said and "net 29" in said and "net 23" in said and "net 22" not in said


def test_bars() -> None:
    figure = drawn(vos("worse", (0.3, 0.2, 0.4)), vos("dino_vits16"))["vos-davis2017"].figure
    axes = figure.axes[0]
    points = [float(container[0].get_xdata()[0]) for container in axes.containers]
    assert points == pytest.approx([62.0, 30.0])  # the best first
    colours = [container[0].get_color() for container in axes.containers]
    assert len(set(colours)) == 2
    assert [t.get_text() for t in axes.get_yticklabels()] == ["dino_vits16", "worse"]
    assert [t.get_text() for t in axes.texts] == ["62.0 (61.8)", "30.0 (61.8)"]
    errors = [[point[0] for point in c[2][0].get_segments()[0]] for c in axes.containers]
    assert errors == [pytest.approx([59, 65]), pytest.approx([27, 33])]
    assert [a.get_title() for a in figure.axes] == ["J&F", "J", "F"] and "published, in parentheses" in texts(figure)
    assert 0 <= axes.get_xlim()[0] < axes.get_xlim()[1] <= 100
    off = drawn(retrieval("mine", settings={"pooling": "gem"}))["retrieval-rparis6k"].figure
    assert "published, in parentheses" not in texts(off)  # not comparable: not drawn beside


def test_a_long_name_is_whole_in_the_picture_and_the_axis_ends_at_100() -> None:
    """The label of a long name was cut at the left edge, and the axis ran to 130 %."""
    name = "random:vit_patch8_dim64_depth3_heads2_img16"
    figure = drawn(vos(name, (0.98, 0.95, 0.97)), vos("b", (0.2, 0.1, 0.3)))["vos-davis2017"].figure
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.get_xlim()[1] <= 100
        for label in axes.get_yticklabels():
            box = label.get_window_extent()
            assert not label.get_text() or box.x0 >= 0
    (first, _) = figure.axes[0].get_yticklabels()
    assert first.get_text().startswith("random:vit") and first.get_text().endswith("_img16")


def test_a_model_looks_the_same_in_every_figure() -> None:
    models = ("net b", "net a")
    with style.one_look(models):
        figures = drawn(swept("net a", {5: 0.8, 20: 0.7}), swept("net b", {5: 0.5}), vos("net a"))
    curves = figures["knn-digits"].figure.axes[0]
    colour = {c.get_label(): c[0].get_color() for c in curves.containers}
    assert colour == {"net b": style.COLOURS[0], "net a": style.COLOURS[1]}
    assert figures["vos-davis2017"].figure.axes[0].containers[0][0].get_color() == style.COLOURS[1]
    assert style.line(0)["color"] == style.COLOURS[0]


def test_many_bars_are_cut_and_say_so() -> None:
    found = [vos(f"net {i}", (i / 100, 0.1, 0.1)) for i in range(30)]
    said = texts(drawn(*found)["vos-davis2017"].figure)
    assert "the best 24 of 30 checkpoints" in said and "net 29" in said and "net 5" not in said


def test_a_trajectory_needs_two_epochs_of_one_run() -> None:
    alone = drawn(epochs("run/checkpoint-epoch0010", 10, 0.5), epochs("dino_vits16", 100, 0.7))
    assert not [name for name in alone if name.startswith("trajectory")]
    found = drawn(
        epochs("run/checkpoint-epoch0020", 20, 0.6),
        epochs("run/checkpoint-epoch0010", 10, 0.5),
        epochs("run/checkpoint", 30, 0.7),
        epochs("other/checkpoint-epoch0010", 10, 0.1),
    )["trajectory-knn-digits"].figure
    assert lines(found) == {"run": ([10, 20, 30], pytest.approx([50, 60, 70]))}


def test_runs_of_one_name_are_not_joined() -> None:
    same = {"name": "run/checkpoint-epoch0010", "epoch": 10}
    one, two = (epochs(**same, value=v) for v in (0.5, 0.2))
    two = replace(two, checkpoint={**two.checkpoint, "digest": "other"}, request="2" * 64)
    figure = drawn(one, two, epochs("run/checkpoint-epoch0020", 20, 0.6))["trajectory-knn-digits"].figure
    assert list(lines(figure)) == ["run (several runs of this name)"]
    assert figure.axes[0].containers[0][0].get_linestyle() == "None"
    again = replace(one, request="3" * 64)  # the same weights, measured twice
    figure = drawn(one, again, epochs("run/checkpoint-epoch0020", 20, 0.6))["trajectory-knn-digits"].figure
    assert lines(figure)["run"][0] == [10, 20]
    msn = epochs("run/checkpoint-epoch0020", 20, 0.6, family="msn")
    assert "trajectory-knn-digits" not in drawn(one, msn)


def log_file(folder: Path, name: str = "run") -> Path:
    told = [
        {"step": s, "epoch": s // 8, "loss": 5 - s / 10} | ({"knn": s / 40} if s % 8 == 0 else {}) for s in range(24)
    ]
    told += [{"step": 24, "epoch": 3, "knn": 0.6, "alarms": []}]
    path = folder / name / training_log.LOG
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in told) + '{"step": 25, "ep')
    return path


def test_training_logs(tmp_path: Path) -> None:
    log = training_log.read(log_file(tmp_path))
    assert log is not None
    assert log.epoch == pytest.approx(np.arange(24) / 8) and log.loss == pytest.approx(5 - np.arange(24) / 10)
    assert log.knn_epoch == pytest.approx([0, 1, 2, 3]) and log.knn == pytest.approx([0, 0.2, 0.4, 0.6])
    assert list(training_log.under(tmp_path)) == ["run"]
    log_file(tmp_path / "elsewhere")
    assert training_log.under(tmp_path) == {}  # two runs of one name: neither
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / training_log.LOG).write_text('[1]\n{"step": "x"}\n{"step": 3, "epoch": 0, "loss": 1}\n\x00')
    assert training_log.under(tmp_path) == {} and training_log.read(tmp_path / "nowhere") is None


def test_a_log_stands_beside_the_trajectory(tmp_path: Path) -> None:
    log_file(tmp_path)
    results = [epochs(f"run/checkpoint-epoch000{e}", e, 0.5 + e / 10) for e in (1, 2, 3)]
    figure = drawn(*results, logs=training_log.under(tmp_path))["trajectory-knn-digits"].figure
    assert len(figure.axes) == 2 and figure.axes[1].get_ylabel() == "training loss"
    assert lines(figure)["during training, on training images"][1] == pytest.approx([0, 20, 40, 60])
    runs = trajectories.of_runs(results, scores.overviews.headlines(_layout(), results)[0])
    assert [run.value.tolist() for run in runs] == [pytest.approx([0.6, 0.7, 0.8])]


def _layout() -> scores.Layout:
    return scores.layouts.protocols()["knn"]


@pytest.mark.parametrize("name", ["$x$", "_hidden", "a\x1b\nb", "<b>&", "$\\frac$"])
def test_odd_names_are_labels(name: str) -> None:
    said = texts(drawn(swept(name, {5: 0.8}), swept("net", {5: 0.7}))["knn-digits"].figure)
    wanted = name.replace("\x1b\n", "\\x1b ")
    assert wanted in {text.replace("\u200b", "") for text in said}


def test_alternative_texts_tell_series_and_ends() -> None:
    found = drawn(swept("net a", {5: 0.8, 20: 0.9, 50: 0.6}), swept("$b$", {5: 0.5}), vos("net"))
    assert describe_figure(found["knn-digits"].figure) == (
        "k-NN top-1 (%) against neighbours k. net a from 80 to 60, between 60 and 90; $b$ 50."
    )
    assert "J&F: %. net 62.0" in describe_figure(found["vos-davis2017"].figure)


def test_svg_on_the_page_has_no_style_and_keeps_its_text() -> None:
    one = drawn(swept("<b> & net", {5: 0.8, 20: 0.9}))["knn-digits"]
    shown = inline(one, "fig")
    root = ET.fromstring(str(shown.svg))
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids)) and all(str(i).startswith("fig-") for i in ids)
    assert not [e for e in root.iter() if e.get("style") or e.tag in ("style", "metadata")]
    assert {e.get("href", "#fig-")[:5] for e in root.iter("use")} == {"#fig-"}
    assert "<b> & net" in {"".join(e.itertext()) for e in root.iter("text")}
    assert root.find("title") is not None and "from 80 to 90" in (root.findtext("desc") or "")


def test_the_command_draws_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from evaltk.cli import figures as command

    results = [epochs(f"run/checkpoint-epoch000{e}", e, 0.5 + e / 10) for e in (1, 2)]
    write(tmp_path / "runs", [*((r, {}) for r in results), (vos(), {})])
    log_file(tmp_path / "runs")
    out = tmp_path / "out"
    argv = ["--runs", str(tmp_path / "runs"), "--out", str(out), "--format", "svg", "pdf", "--no-theory"]
    assert command.main(argv) == 0
    written = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    names = ("knn-digits", "trajectory-knn-digits", "training-run", "vos-davis2017")
    assert written == {f"{name}.{form}" for name in names for form in ("svg", "pdf")}
    assert "training loss" in (out / "trajectory-knn-digits.svg").read_text()
