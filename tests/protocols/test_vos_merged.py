"""DAVIS-2016: all objects of a video are one, as if the annotations held one object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_inputs import DEIT

from evaltk import cli, datasets, results
from evaltk.data import frames
from evaltk.deviations import DeviationKind

COWS = Path(__file__).parents[1] / "golden" / "davis_cows"


def a_folder(root: Path, *, several: bool) -> Path:
    """The cows, whose two halves are objects of their own where `several`."""
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "480p" / "cows").mkdir(parents=True)
    for i in range(4):
        name = f"{i:05d}"
        data = (COWS / "frames" / f"{name}.jpg").read_bytes()
        (root / "JPEGImages" / "480p" / "cows" / f"{name}.jpg").write_bytes(data)
        ids = (frames.read_ids(COWS / "masks" / f"{name}.png") > 0).astype(np.uint8)
        ids[:, 400:] *= 2 if several else 1
        Image.fromarray(ids).save(root / "Annotations" / "480p" / "cows" / f"{name}.png")
    (root / "ImageSets" / "2016").mkdir(parents=True)
    (root / "ImageSets" / "2016" / "val.txt").write_text("cows\n")
    return root


def test_merged_objects_are_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for name, several in (("two", True), ("one", False)):
        root = a_folder(tmp_path / name, several=several)
        argv = ["run", DEIT, "--num-heads", "3", "--position", "dino", "--protocols", "vos", "--vos.size", "64"]
        argv += ["--data", f"davis2016={root}", "--out", str(root / "runs"), "--cache", str(tmp_path / "cache"), "-q"]
        assert cli.main([*argv, *(["--vos.merged"] if several else [])]) == 0
        ((_, found[name]),) = results.find(root / "runs")
    assert found["two"].scores == found["one"].scores and {s.n for s in found["two"].scores} == {1}
    assert found["two"].settings["merged"] is True and "merged" not in found["one"].settings
    assert any(
        d.kind is DeviationKind.SPLIT_SIZE and "DAVIS-2016 val has 20" in d.text for d in found["two"].deviations
    )
    assert datasets.load(f"davis2016={tmp_path / 'two'}").sizes == {"val": 1}
    assert frames.one_object(np.array([0, 1, 7, 255], np.uint8)).tolist() == [0, 1, 1, 255]
