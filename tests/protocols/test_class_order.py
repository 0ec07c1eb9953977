"""A published head's columns meet the classes by name, or the command asks for their order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaltk.data import images
from evaltk.data.images import Dataset
from evaltk.errors import SettingsError
from evaltk.settings_rules import stated
from protocols import linear
from protocols.linear import class_order


def dataset(names: list[str], *, own: bool = True) -> Dataset:
    pixels = np.zeros((len(names), 2, 2, 3), dtype=np.uint8)
    split = images.from_arrays("d", "test", pixels, np.arange(len(names)), names)
    return replace(Dataset(name="d", train=split, test=split), own=own)


def order(names: list[str], classes: str | None = None, *, own: bool = True) -> tuple[list[int], str]:
    return class_order.columns(dataset(names, own=own), classes, "head.pth")


def test_numbers_are_numbers_though_folders_are_sorted_as_text() -> None:
    columns, told = order(sorted(map(str, range(12))))
    assert columns == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9] and told == "class order: by number"
    assert order(["1", "10", "5"])[0] == [0, 2, 1]  # gaps: by rank
    assert order(["001", "002", "010"])[0] == [0, 1, 2]


def test_wordnet_ids_are_in_order() -> None:
    ids = [f"n{i:08d}" for i in range(1000)]
    assert order(ids) == (list(range(1000)), "class order: by WordNet id")
    assert order(ids[::-1])[0] == list(range(1000))[::-1]  # as a file's class names may have them


def test_a_thousand_other_names_and_numbered_names_are_asked_for() -> None:
    kit = [str(i) for i in range(1, 1001)]  # ILSVRC2012_ID, which is not in the order of WordNet ids
    some_ids = ["n00000002", "n00000001"]
    assert order([str(i) for i in range(1000)])[0][:2] == [0, 1]
    for names in ([f"name{i:04d}" for i in range(1000)], ["class_1", "class_10", "class_2"], kit, some_ids):
        with pytest.raises(SettingsError, match=r"order of the head's classes.*--linear\.classes FILE"):
            order(names)


def test_a_file_decides(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("dog\ncat\n\nbird\n", encoding="utf-8-sig")
    assert order(["bird", "cat", "dog"], str(path)) == ([2, 1, 0], "class order: as classes.txt lists it")
    path.write_text("dog\ndog\ncow\n")
    with pytest.raises(SettingsError, match="1 twice, without bird, cat, others: cow"):
        order(["bird", "cat", "dog"], str(path))
    with pytest.raises(SettingsError, match="No such file"):
        order(["bird"], str(tmp_path / "none.txt"))


def test_sorted_names_are_taken_as_imagefolder_numbers_them_and_published_sets_as_they_are() -> None:
    columns, told = order(["cat", "dog"])
    assert columns == [0, 1] and "as ImageFolder does" in told
    assert order([str(i) for i in (3, 1, 2)], own=False)[0] == [0, 1, 2]
    assert order(["dog", "cat"])[1] == "class order: as the dataset's files number them"  # a ClassLabel's names


def test_the_flag_stands_in_results_only_where_it_is_given() -> None:
    """Or each linear result of before would be done anew."""
    assert "classes" not in stated(linear.Settings())
    given = stated(linear.Settings(head="head.pth", classes="c.txt"))
    assert given["classes"] == "c.txt" and given["head"] == "head.pth"
    with pytest.raises(SettingsError, match=r"--linear\.classes"):
        linear.Settings(classes="c.txt")
