"""The course of prototypes over training, from whole, cut and other logs; and over a run's checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from reports.figures import course, training_log
from reports.figures.sharing import class_use, similarity


def log(folder: Path, *lines: dict, end: str = "") -> Path:
    folder.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines) + end
    (folder / "log.jsonl").write_text(text, encoding="utf-8")
    return folder / "log.jsonl"


def counted(step: int, unique: int, largest: int) -> dict:
    told = {"step": step, "epoch": step // 10, "log_k": math.log(1024)}
    return told | {"unique_prototypes": unique, "largest_duplicate_set": largest}


LINES = (counted(0, 1024, 1), {"step": 5, "epoch": 0, "loss": 1.0}, counted(10, 700, 30), counted(20, 236, 766))


def test_a_cut_log_is_read_up_to_the_cut(tmp_path: Path) -> None:
    path = log(tmp_path / "run", *LINES, end=json.dumps(counted(30, 1, 1024))[:40])
    found = training_log.course(path)
    assert found is not None and found.num == 1024
    assert found.step.tolist() == [0, 10, 20]
    assert found.unique.tolist() == [1024, 700, 236] and found.largest.tolist() == [1, 30, 766]


def test_logs_that_count_no_prototypes_are_left_out(tmp_path: Path) -> None:
    log(tmp_path / "whole", *LINES)
    log(tmp_path / "once", LINES[0])
    log(tmp_path / "none", {"step": 0, "epoch": 0, "loss": 1.0}, {"step": 9, "epoch": 1, "loss": 0.5})
    log(tmp_path / "odd", *({**line, "unique_prototypes": "many"} for line in LINES))
    found = training_log.courses_under(tmp_path)
    assert list(found) == ["whole"]
    (drawn,) = course.of_logs(found)
    unique, largest = drawn.figure.axes
    assert unique.lines[0].get_ydata().tolist() == [1024, 700, 236]
    assert largest.lines[0].get_ydata().tolist() == [1, 30, 766]
    assert course.of_logs({}) == []


def test_more_runs_than_can_be_told_apart() -> None:
    one = training_log.Course(step=np.arange(3), unique=np.arange(3), largest=np.arange(3), num=0)
    figure = course.draw({f"run{n}": one for n in range(9)})
    assert len(figure.axes[0].lines) == 7 and "first 7 of 9 runs" in figure.axes[0].get_title()


def test_similarity_and_class_use() -> None:
    blocks = np.array([[1.0, -0.5], [-0.5, 0.25]])
    figure = similarity(blocks, np.array([600, 424]), title="net")
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(np.asarray(image.get_array()), blocks)
    assert image.get_clim() == (-1, 1) and figure.axes[0].get_xlim() == (0, 1024)
    drawn = class_use({"a": np.array([3.0, np.nan, 2.0]), "b": np.array([1.0, 1.0, 1.0])})
    assert [line.get_ydata()[0] for line in drawn.axes[0].lines] == [3.0, 1.0]
