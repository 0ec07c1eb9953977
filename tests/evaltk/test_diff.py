"""`evaltk diff`: two heads of different K on the same images, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaltk.cli import main
from pretrain import loop, recipe

SMALL = (
    "net.arch=vit_patch8_dim16_depth1_heads2_img8", "views.global_size=8", "views.local_size=8", "method.hidden=16",
    "method.bottleneck=8", "optim.batch=250", "optim.epochs=1", "optim.warmup_epochs=1", "run.knn=0",
    "run.monitor_every=100",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, num in (("digits_dino", 40), ("digits_dino_vmf", 24)):
        folder = tmp_path_factory.mktemp(name)
        loop.run(recipe.load(name, [*SMALL, f"method.num_prototypes={num}"]), out=folder, device="cpu")
        made[name] = folder / "checkpoint.pth"
    return made


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_two_checkpoints(trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = trained.values()
    asked = ("diff", a, b, "--data", "digits", "--out", tmp_path / "runs", "--cache", tmp_path / "cache")
    code, out, _ = said(capsys, *asked)
    assert code == 0 and "### Prototypes on digits" in out and "### Prototypes by class" in out
    assert "K differs: 40 and 24" in out and "| class 9 " in out
    assert "images that log C_p decides (%)" in out and "% for images in random order" in out
    code, out, _ = said(capsys, *asked, "--json")
    found = json.loads(out)
    assert code == 0 and found["A"]["unique_share"] * 40 == found["A"]["unique_at_0.9_count"]
    assert "constant_share" not in found["A"] and 0 <= found["B"]["constant_decides_share"] <= 1
    pairs = found["matching"]["pairs"]
    assert sum(images for *_, images in pairs) == pytest.approx(found["matching"]["share"] * 1000)
    assert all(k < 40 and m < 24 for k, m, _ in pairs)


def test_what_it_refuses(trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = trained.values()
    code, _, err = said(capsys, "diff", a, "--data", "digits")
    assert code == 2 and "wanted two checkpoints" in err
    code, _, err = said(capsys, "diff", a, b)
    assert code == 2 and "--data" in err
    bare = "random:vit_patch8_dim16_depth1_heads2_img8"
    at = ("--out", tmp_path / "runs", "--cache", tmp_path / "cache")
    code, _, err = said(capsys, "diff", bare, b, "--data", "digits", *at)
    assert code == 2 and "projection head and prototypes" in err and len(err.strip()) < 300
