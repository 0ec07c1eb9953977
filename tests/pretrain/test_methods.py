"""Methods are found by listing their folder; a new one needs its own file and nothing else."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from evaltk import load_checkpoint
from evaltk.errors import SettingsError
from pretrain import loop, methods, recipe
from pretrain.method import Method

TOY = '''
"""A toy: the cosine between student and teacher, with a setting of its own and no centre."""

from dataclasses import dataclass
from typing import ClassVar

from evaltk.models.vit import ViT
from pretrain import method, nets


@dataclass(frozen=True, slots=True, kw_only=True)
class ToySettings(method.Settings):
    pull: float = 1.0


class Toy(method.Method):
    name = "toy"
    settings = ToySettings
    center_keys: ClassVar = {}
    frozen_at_first = ()

    def rules(self, settings, views):
        return [(settings.pull > 0, "method.pull > 0", settings.pull)]

    def network(self, arch, settings, *, drop_path):
        m = settings
        head = nets.Head(arch.embed_dim, m.hidden, m.bottleneck, m.num_prototypes, m.scoring)
        return nets.Network(ViT(arch, drop_path=drop_path), head)

    def loss(self, batch, state):
        student = state.student(batch.views[:1])["cls"]
        teacher = state.teacher(batch.views[1:2])["cls"].detach()
        cosine = (student * teacher).sum(-1).mean()
        return method.LossOutput(loss=-state.settings.pull * cosine, parts={"cosine": cosine.detach()})


METHOD = Toy()
'''
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
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder of methods, with the toy in it."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "toy.py").write_text(TOY)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "methods")])
    monkeypatch.delitem(sys.modules, "pretrain.methods.toy", raising=False)


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
