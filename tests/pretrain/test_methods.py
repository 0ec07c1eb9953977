"""Methods are found in their folder, in plug-in files and as entry points; a new one needs its own file and no more."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from evaltk import cli, load_checkpoint, plugins
from evaltk.errors import SettingsError
from pretrain import loop, methods, recipe
from pretrain.method import Method

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
TINY = [
    "net.arch=vit_patch4_dim32_depth1_heads2_img16",
    "method.name=toy",
    "method.num_prototypes=16",
    "method.hidden=16",
    "method.bottleneck=8",
    "optim.batch=500",
    "optim.epochs=1",
    "optim.warmup_epochs=0",
    "run.knn=100",
    "run.log_every=1",
]


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Path]:
    """The plug-in file with the method `toy` that docs/extending.md shows, in use."""
    (text,) = re.findall(r"^```python toy.py\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path / "toy.py"
    path.write_text(text)
    plugins.use([path])
    yield path
    plugins.use(())


def test_the_methods_of_the_folder() -> None:
    assert list(methods.registry()) == ["dino", "ibot", "msn"]
    with pytest.raises(SettingsError, match="did you mean 'dino'"):
        recipe.load("digits_dino_vmf", ["method.name=dyno"])


@pytest.mark.usefixtures("toy")
def test_a_new_method_is_one_file(tmp_path: Path) -> None:
    settings = recipe.load("digits_dino_vmf", [*TINY, "method.pull=2.0"])
    assert loop.run(settings, out=tmp_path / "run", device="cpu") == 0
    lines = [json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]  # two steps, and the last line
    assert lines[0]["loss"] == pytest.approx(-2 * lines[0]["cosine"])
    assert lines[1]["loss"] != lines[0]["loss"] and "teacher_entropy" not in lines[0]
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.pth")
    assert checkpoint.family == "own" and checkpoint.arch.depth == 1
    assert loop.run(settings, out=tmp_path / "run", device="cpu") == 0  # resumes, with nothing left to do


def test_the_document_trains_from_the_command_line(toy: Path, tmp_path: Path) -> None:
    plugins.use(())
    words = ["pretrain", "digits_dino_vmf", "--plugin", str(toy), "--device", "cpu", "--out", str(tmp_path / "run")]
    assert cli.main([*words, "--set", *TINY]) == 0
    assert (tmp_path / "run" / "checkpoint.pth").exists()
    assert cli.main(["pretrain", "digits_dino_vmf", "--device", "cpu", "--set", "method.name=toy"]) == 2


def test_a_name_that_is_taken(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.write_text(toy.read_text().replace('name = "toy"', 'name = "msn"'))
    assert cli.main(["pretrain", "digits_dino_vmf", "--plugin", str(toy), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "'msn' in both evaltk (pretrain.methods.msn) and" in error and "toy.py" in error


@pytest.mark.usefixtures("toy")
def test_settings_and_rules_are_the_methods_own() -> None:
    with pytest.raises(SettingsError, match=r"method.pull > 0 for toy; got -1"):
        recipe.load("digits_dino_vmf", [*TINY, "method.pull=-1.0"])
    with pytest.raises(SettingsError, match="sharpen"):
        recipe.load("digits_dino_vmf", [*TINY, "method.sharpen=0.5"])
    with pytest.raises(SettingsError, match=r"method.scoring = cosine"):
        recipe.load("digits_dino_vmf", [*TINY, "method.name=msn"])
    with pytest.raises(SettingsError, match=r"views.num_global = 2 for ibot; got 3"):
        recipe.load("digits_dino_vmf", [*TINY, "method.name=ibot", "views.num_global=3"])


@pytest.mark.parametrize("name", methods.registry())
def test_pack_and_unpack_are_inverse(name: str) -> None:
    method: Method = methods.get(name)
    scoring = ["method.scoring=cosine"] if name == "msn" else []
    settings = recipe.load("digits_dino_vmf", [*TINY, f"method.name={name}", *scoring])
    arch = loop.nets.parse(settings.net.arch)
    reseeded = dataclasses.replace(settings, run=dataclasses.replace(settings.run, seed=1))
    first = loop.init_state(settings, method, arch, torch.device("cpu"))
    other = loop.init_state(reseeded, method, arch, first.device)
    first.centers = {key: torch.randn_like(center) for key, center in first.centers.items()}
    tree = method.pack(first)
    method.unpack(tree, other)
    for key, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[key])
    assert all(torch.equal(first.centers[key], other.centers[key]) for key in first.centers)
    assert tree.keys() == method.pack(other).keys()
