"""Figures: valid files whose text is text, drawn from result files alone, and the same bytes each time."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from result_files import LOOKS

from evaltk import results
from evaltk.errors import SettingsError, StorageError
from evaltk.prototypes import vmf_curves
from evaltk.types import Result, ResultData, Score
from reports.figures import collect, prototypes, style, vmf

K, N = 300, 500
RNG = np.random.default_rng(0)


def texts(figure: Figure) -> set[str]:
    """What the SVG's text elements say; Raises where it is no XML."""
    root = ET.fromstring(style.render(figure, "svg", title="a title"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return {"".join(e.itertext()).strip() for e in root.iter("{http://www.w3.org/2000/svg}text")}


def sweep(largest: float) -> prototypes.Sweep:
    t = np.array([0.5, 0.9, 0.99])
    return prototypes.Sweep(threshold=t, unique=np.array([5, 50, 200]), largest=np.full(3, largest), num=K)


def bins(num: int = 5) -> prototypes.BinLine:
    value = np.linspace(0.5, 0.8, num)
    places = np.arange(1, num + 1)
    return prototypes.BinLine(
        bin=places, value=value, low=value - 0.05, high=value + 0.05, count=np.full(num, 20), bins=num
    )


LABELS = ("DINO <script>", "a_b%$")
MADE = {
    "thresholds": lambda: prototypes.thresholds({LABELS[0]: sweep(120), LABELS[1]: sweep(9)}),
    "precision": lambda: prototypes.precision({LABELS[0]: bins(), LABELS[1]: bins()}),
    "kappa": lambda: prototypes.kappa_histogram({LABELS[0]: np.full(K, 14.3), LABELS[1]: RNG.gamma(9, 3, K)}),
    "set sizes": lambda: prototypes.set_sizes({LABELS[0]: np.array([90, 5, 1]), LABELS[1]: np.ones(K)}, 0.9),
    "usage": lambda: prototypes.usage({LABELS[0]: np.array([0, 4, 9]), LABELS[1]: np.arange(2000)}),
}


@pytest.mark.parametrize("name", MADE)
def test_comparisons_name_their_checkpoints(name: str) -> None:
    said = texts(MADE[name]())
    for label in LABELS:
        assert any(label in text for text in said), said
    pdf = style.render(MADE[name](), "pdf")
    assert pdf.startswith(b"%PDF") and pdf.rstrip().endswith(b"%%EOF")
    assert b"/Type3" not in pdf and b"/Subtype /Type3" not in pdf


def test_a_checkpoint_alone_is_in_the_title() -> None:
    assert "mine" in texts(prototypes.precision({"mine": bins()}))
    assert any("mine" in t for t in texts(prototypes.usage({"mine": np.array([3, 1, 0])})))


def test_projection_marks_the_void() -> None:
    void = np.arange(K) < 100
    counts = np.where(void, 0, RNG.integers(0, 3, K))
    said = texts(prototypes.projection(RNG.standard_normal((K, 2)), np.array([0.6, 0.1]), counts, void, title="mine"))
    assert "void set (100)" in said
    assert "1st direction (60 % of the variance)" in said
    none = texts(prototypes.projection(RNG.standard_normal((K, 2)), np.array([0.6, 0.1]), counts, np.zeros(K, bool)))
    assert not any("void" in text for text in none)


def test_gallery_heads_each_kind_once() -> None:
    shown = RNG.integers(0, 256, (3, 2, 8, 8, 3)).astype(np.uint8)
    figure = prototypes.gallery(["largest", "largest", "purest"], ["p 1", "p 2", "p 3"], shown)
    root = ET.fromstring(style.render(figure, "svg"))
    said = ["".join(e.itertext()).strip() for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert said.count("largest") == 1 and said.count("purest") == 1
    assert len(list(root.iter("{http://www.w3.org/2000/svg}image"))) == 6


def test_vmf_figures() -> None:
    assert "κ = 25" in texts(vmf.circle(vmf_curves.circle_densities()))
    kappa = np.linspace(1, 500, 30)
    assert "p = 1024" in texts(vmf.normalizer(vmf_curves.normalizer_curves(kappa)))


@dataclass(frozen=True)
class Written:
    """A folder of results."""

    folder: Path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("runs")
    for name, request in (("net one", "1" * 64), ("net two", "2" * 64)):
        scores = [
            Score(dataset="toy", split="weights", metric=metric, value=v, n=K, at={"threshold": t, "reading": "leader"})
            for t, v in ((0.5, 20.0), (0.9, 90.0))
            for metric in ("unique_count", "largest_count")
        ]
        counts = RNG.integers(0, 4, K)
        arrays = {
            "kappa": RNG.gamma(9, 3, K),
            "sizes_leader_0.9": np.sort(RNG.integers(1, 9, 90))[::-1],
            "counts": counts,
            "purity": np.where(counts > 0, 0.5, np.nan),
            "projection": RNG.standard_normal((K, 2)),
            "projection_share": np.array([0.5, 0.2]),
            "void": np.zeros(K, dtype=bool),
            "gallery_kind": np.array(["largest", "purest"]),
            "gallery_prototype": np.array([3, 4]),
            "gallery_images": RNG.integers(0, 256, (2, 3, 8, 8, 3)).astype(np.uint8),
        }
        _write(folder, name, "prototypes", request, scores, arrays)
        some = [
            Score(
                dataset="toy",
                split="test",
                metric="top1_bin",
                value=0.5 + b / 10,
                n=20,
                at={"temperature": t, "centre": "without", "bin": b, "bins": 3},
                interval=(0.4, 0.9),
            )
            for t in (0.07, 0.1)
            for b in (1, 2, 3)
        ]
        _write(folder, name, "precision", request, some if name == "net one" else some[:0], {})
    return Written(folder=folder)


def _write(
    folder: Path, name: str, protocol: str, request: str, scores: list[Score], arrays: dict[str, np.ndarray]
) -> None:
    result = Result(
        checkpoint={"name": name},
        protocol=protocol,
        version=1,
        settings={"threshold": 0.9},
        data=ResultData(name="toy", fingerprint="f" * 64),
        preprocessing=LOOKS,
        scores=tuple(scores),
        seed=0,
        request=request,
        made={},
    )
    results.write(results.path_of(folder, name, protocol, "toy", request), result, arrays)


def test_what_a_folder_gives(written: Written) -> None:
    drawn = {d.name: d for d in collect.of_results(results.find(written.folder))}
    assert set(drawn) == {
        "precision-toy",
        "thresholds-toy",
        "kappa-toy",
        "set-sizes-toy",
        "usage-toy",
        "projection-net-one-toy",
        "gallery-net-one-toy",
        "projection-net-two-toy",
        "gallery-net-two-toy",
    }
    said = texts(drawn["precision-toy"].figure)
    assert "net one" in said  # net two has no percentiles


def test_command_writes_files_and_the_same_bytes_again(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evaltk.cli import figures as command

    for out in ("a", "b"):
        argv = ["--runs", str(written.folder), "--out", str(tmp_path / out), "--format", "svg", "--no-theory"]
        assert command.main(argv) == 0
    assert str(tmp_path / "a" / "usage-toy.svg") in capsys.readouterr().out
    for path in sorted((tmp_path / "a").glob("*.svg")):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_nothing_to_draw(tmp_path: Path) -> None:
    from evaltk.cli import figures as command

    with pytest.raises(StorageError, match="prototypes, precision"):
        command.main(["--runs", str(tmp_path), "--out", str(tmp_path / "out"), "--no-theory"])


def test_unknown_format() -> None:
    with pytest.raises(SettingsError, match="svg"):
        style.render(MADE["usage"](), "gif")


def test_figures_need_no_torch() -> None:
    code = "import sys, reports.figures.collect, reports.figures.vmf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
