"""What `evaltk plan` measures: time, memory, the images it looks at, and how they are printed."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SMALL, readings, said, told

from evaltk import machine
from evaltk.checkpoints.load import load_checkpoint
from evaltk.cli import plan
from evaltk.data.images import SAMPLED
from evaltk.data.transforms import Transform
from evaltk.datasets import digits
from evaltk.models.backbone import Backbone, build_backbone
from evaltk.running import measuring
from evaltk.types import Recipe

Build = Callable[..., Path]
PLAIN = Transform(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))


@pytest.fixture
def folders(folders: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measuring takes next to no time."""
    monkeypatch.setattr(measuring, "PATIENCE", 0.02)
    return folders


@pytest.fixture
def pictures(image_tree: Build) -> Path:
    return image_tree({"train/a": 12, "train/b": 8, "test/a": 2, "test/b": 3})


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """A net that takes `seconds` an image; the sizes of the batches that pass."""
    passed: list[int] = []
    real = Backbone.features

    def waited(self: Backbone, x: torch.Tensor, recipes: tuple[Recipe, ...]) -> list[torch.Tensor]:
        passed.append(len(x))
        time.sleep(seconds * len(x))
        return real(self, x, recipes)

    monkeypatch.setattr(Backbone, "features", waited)
    return passed


def test_time_is_what_an_image_takes_times_the_images(
    folders: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = slow(monkeypatch, 0.004)
    found = told(capsys, "pixels:8", "--data", "digits", *SMALL, *folders)
    train, test = readings(found)
    for reading in (train, test):
        at = reading["measured"]
        assert at["net_seconds"] >= 0.004 and at["decoding_seconds"] > 0 and at["workers"] == 0
        assert reading["seconds"] == pytest.approx(reading["left"] * (at["net_seconds"] + at["decoding_seconds"]))
    assert found["seconds"] == pytest.approx(train["seconds"] + test["seconds"]) and found["seconds"] > 1797 * 0.004
    # 0.02 s of patience are five such images at most: the batch of 512 is told of, not run.
    assert max(passed) <= 5 and train["measured"]["batch"] == 512 and "scaled from" in train["measured"]["memory_of"]
    assert sum(passed) < 40 and train["measured"]["in_a_batch"] == max(passed)
    code, out, _ = said(capsys, "plan", "pixels:8", "--data", "digits", *SMALL, *folders)
    # 31 where decoding them takes no longer than the patience, fewer on a busy machine.
    decoded = [int(count) for count in re.findall(r"from (\d+) images decoded", out)]
    assert code == 0 and decoded and all(1 <= count <= 31 for count in decoded)


@pytest.mark.parametrize(("patience", "memory"), [(9.0, 300), (0.0, 100 + 200 * 512)])
def test_memory_is_the_peak_scaled_where_the_batch_was_smaller(
    patience: float, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = digits.load(None).train
    decoded = measuring.decode(split, PLAIN, 0)
    assert decoded is not None
    monkeypatch.setattr(measuring, "PATIENCE", patience)
    monkeypatch.setattr(measuring, "_memory", lambda device, reset=False: 100 if reset else 300)
    paced = measuring.pace(build_backbone(load_checkpoint("pixels:8")), split, PLAIN, (Recipe(),), decoded, 512)
    assert (paced.widths, paced.memory, paced.num_images) == ((192,), memory, 512 if patience else 1)
    scaled = "" if patience else ", scaled from 1 to 512 images"
    assert paced.how == f"resident in this process{scaled}"


def test_where_the_peak_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, most = torch.device("cpu"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 0.2 * most <= measuring._memory(cpu) <= 1.1 * most
    mark = measuring._memory(cpu)
    before = measuring._memory(cpu, reset=True)
    kept = np.ones(100_000_000, dtype=np.uint8)
    lowered = before < mark  # a system may forbid it: then the mark of what came before stands
    assert measuring._memory(cpu) >= before + (0.9 * len(kept) if lowered else 0)
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  512 kB\nVmRSS:\t  400 kB\n")
    monkeypatch.setattr(measuring, "STATUS", tmp_path / "status")
    assert measuring._memory(cpu) == 512 * 1024
    monkeypatch.setattr(measuring, "STATUS", tmp_path / "none")
    monkeypatch.setattr(measuring.sys, "platform", "linux")
    assert measuring._memory(cpu) >= most


def test_images_measured_are_spread_and_not_those_of_the_fingerprint() -> None:
    split = digits.load(None).train
    decoded = measuring.decode(split, PLAIN, 0)
    assert decoded is not None and decoded.pixels.shape == (31, 8, 8, 3)
    assert decoded.numbers == [int((i + 0.5) * 1000 / 31) for i in range(31)]
    assert not {*decoded.numbers} & {*np.linspace(0, 999, SAMPLED).astype(int).tolist()}
    for number, pixels in zip(decoded.numbers, decoded.pixels, strict=True):
        assert np.array_equal(pixels, PLAIN.pixels(split.open(number)))


def test_unreadable_images_that_are_allowed(pictures: Path, folders: list[str], capsys: Any) -> None:
    for path in (pictures / "test").rglob("*.png"):
        path.write_bytes(b"broken")
    asked = ["pixels:8", "--data", f"pics:imagefolder={pictures}", *SMALL, *folders, "--skip-bad-images", "5"]
    train, test = readings(told(capsys, *asked))
    assert train["seconds"] > 0 and test["seconds"] is None and test["features"][0]["num_bytes"] is None
    code, out, _ = said(capsys, "plan", *asked)
    assert code == 0 and "none of the images looked at could be read" in out and "could not be measured" in out


@pytest.mark.parametrize(
    ("workers", "on_cpu", "usable", "threads", "seconds"),
    [
        (0, True, 8, 8, 5.0),  # one after the other: 3 + 2
        (4, False, 8, 1, 2.0),  # decoding takes 3/4 s an image beside a net of 2 s
        (1, False, 8, 1, 3.0),  # one process decodes slower than the device computes
        (16, False, 2, 1, 2.0),  # two cores decode two at a time: 1.5 s
        (2, True, 2, 2, 3.5),  # 3 + 2 x 2 core seconds on two cores
        (2, True, 2, 1, 2.5),  # 3 + 2 core seconds on two cores
        (8, True, 16, 8, 2.0),  # cores enough for both
    ],
)
def test_seconds_an_image(
    workers: int, on_cpu: bool, usable: int, threads: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: usable)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert measuring.seconds_an_image(3.0, 2.0, workers=workers, on_cpu=on_cpu) == seconds


def test_units() -> None:
    assert [plan.size(n) for n in (0, 999, 1000, 39_240_000, 999_600, 1.5e15)] == [
        "0 bytes", "999 bytes", "1.00 kB", "39.2 MB", "1.00 MB", "1.50 PB",
    ]  # fmt: skip
    assert [plan.span(s) for s in (0.2, 1, 89, 91, 5399, 5400, 172_799, 172_800, 1e6)] == [
        "a second or less", "about 1 s", "about 89 s", "about 1.5 min", "about 90 min", "about 1.5 h", "about 48 h",
        "about 2.0 days", "about 12 days",
    ]  # fmt: skip


@pytest.mark.parametrize(("seconds", "said"), [(4.6e-5, "0.046 ms"), (0.0123, "12 ms"), (1.9, "1,900 ms")])
def test_short_durations(seconds: float, said: str) -> None:
    assert plan.milliseconds(seconds) == said
