"""Figures of geometry, shift and segmentation on the page: what they show is what the results hold."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from result_files import knn, write

from evaltk import results
from evaltk.types import Result, Score
from reports import classes
from reports.figures import collect, features, style
from reports.page.build import build_page


def score(metric: str, value: float, **at: object) -> Score:
    return Score(dataset="digits", split="test", metric=metric, value=value, n=40, at=at)


def shift() -> tuple[Result, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, 40)
    predicted = np.where(rng.random(40) < 0.7, target, rng.integers(0, 3, 40))
    arrays = {
        "class_names": np.asarray(["ant", "bee", "<cat>"]),
        "target_test": target,
        "knn_test": predicted,
        "knn_test_confidence": rng.random(40).astype(np.float32),
    }
    top1 = score("top1", float((target == predicted).mean()), on="test", set="test", classifier="knn")
    return replace(knn(), protocol="shift", scores=(top1,), settings={}, request="a" * 64), arrays


def geometry() -> tuple[Result, dict[str, np.ndarray]]:
    arrays = {"cka_blocks": np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3)}
    result = replace(knn(), protocol="geometry", scores=(score("rankme", 7.5, dimensions=9),), settings={})
    return replace(result, request="b" * 64), arrays


def segmentation() -> tuple[Result, dict[str, np.ndarray]]:
    scores = [score("miou", 0.5, method="linear")]
    scores += [score("iou", i / 40, method="linear", class_name=f"class {i}") for i in range(40)]
    return replace(knn(), protocol="segmentation", scores=tuple(scores), settings={}, request="c" * 64), {}


def test_figures_and_their_place_on_the_page(tmp_path: Path) -> None:
    write(tmp_path, [shift(), geometry(), segmentation()])
    found = list(results.find(tmp_path))
    drawn = {one.name.split("-")[0]: one for one in collect.of_analyses(found)}
    assert set(drawn) == {"cka", "reliability", "iou"}
    image = drawn["cka"].figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.asarray(image), geometry()[1]["cka_blocks"])
    bars = [patch.get_width() for patch in drawn["iou"].figure.axes[0].patches]
    assert len(bars) == features.MOST and bars[0] == pytest.approx(100 * 39 / 40) and bars[-1] == 0
    page = build_page(found, runs=tmp_path)
    for title in ("CKA of the blocks of", "reliability of the classifiers of", "IoU by class of"):
        assert title in page
    assert "RankMe" in page and "Segmentation, mIoU (%)" in page and '<h2 id="prototypes">Analyses</h2>' in page


def test_control_characters_of_names_are_in_no_picture(tmp_path: Path) -> None:
    """With them an SVG would be no XML, and a terminal that prints it would obey them."""
    odd = "\x1b[31m\u202e"
    made = replace(knn(), data=replace(knn().data, name=odd), checkpoint=knn().checkpoint | {"name": odd})
    write(tmp_path, [(made, {})])
    found = list(results.find(tmp_path))
    page = build_page(found, runs=tmp_path)
    assert "k-NN top-1 against neighbours k" in page and not set("\x1b\u202e") & set(page)
    for drawn in collect.of_results(found):
        ET.fromstring(style.render(drawn.figure, "svg", title=drawn.title))


def test_tables_of_classes() -> None:
    result, arrays = shift()
    (judged,) = classes.of_result(result, arrays)
    worst, pairs, calibration = classes.tables(judged, 2)
    accuracy = {name: np.mean(arrays["knn_test"][arrays["target_test"] == c] == c)
                for c, name in enumerate(("ant", "bee", "<cat>"))}  # fmt: skip
    assert [label for label, _ in worst.rows] == sorted(accuracy, key=lambda name: accuracy[name])[:2]
    assert worst.rows[0][1][0].value == pytest.approx(min(accuracy.values()))
    assert pairs.stub == "true as predicted" and " as " in pairs.rows[0][0]
    assert sum(row[-1].value or 0 for _, row in calibration.rows) == 40
    assert judged.name(7) == "class 7" and classes.of_result(replace(result, protocol="vos"), arrays) == []


def test_unreadable_images_are_no_mistakes() -> None:
    """Fine-tuning keeps -1 and NaN for images that cannot be read; they have no class, least of all the last one."""
    result, found = shift()
    result = replace(result, protocol="finetune", scores=(score("top1_best_epoch", 0.5),))
    there = found["knn_test"] == found["target_test"]
    arrays = {"target": found["target_test"], "best": np.where(there, found["knn_test"], -1)}
    arrays["best_confidence"] = np.where(there, 0.5, np.nan)
    (judged,) = classes.of_result(result, arrays)
    worst, calibration = classes.tables(judged, 9)
    assert all(row[0].value == 1 for _, row in worst.rows) and "expected error 50.00 %" in calibration.title
    assert sum(row[-1].value or 0 for _, row in worst.rows) == there.sum() == judged.reliability().count.sum()


def test_knn_is_judged_at_the_chosen_k() -> None:
    result = knn()
    arrays = {"target": np.array([0, 1]), "k20_t0.07": np.array([0, 0]), "k10_t0.07": np.array([1, 1])}
    titles = [one.title for one in classes.of_result(result, arrays)]
    assert len(titles) == 1 and "knn on" in titles[0]
