"""TorchScript archives: the state dict as torch.jit gives it, without running a line of their code."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from layouts import GOLDEN

from evaltk.checkpoints import rawfile
from evaltk.errors import CheckpointError

SCRIPT = GOLDEN / "families" / "clip_vit_torchscript_checkpoint.pt"


class Inner(torch.nn.Module):
    """Parameters, a shared one, buffers of both kinds, a tensor that is neither, lists and dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(2, 3).half())
        self.other = torch.nn.Linear(3, 2)
        self.again = self.other
        self.norm = torch.nn.BatchNorm1d(2)
        self.register_buffer("kept", torch.arange(3.0)[1:])
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.plain = torch.ones(4)
        self.sizes: list[int] = [1, 2]
        self.names: dict[str, int] = {"a": 1}
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x) + self.plain.sum() * self.sizes[0] + self.again(self.weight.float()).sum()


def quiet(call, *args):  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return call(*args)


def as_torch_reads(path: Path) -> None:
    wanted, raw = quiet(torch.jit.load, path).state_dict(), rawfile.read(path)
    assert raw.torchscript and raw.skipped == ()
    assert list(raw.tree) == list(wanted) and len(wanted) > 5
    for key, tensor in wanted.items():
        got = raw.tree[key]
        assert isinstance(got, torch.Tensor) and got.dtype == tensor.dtype and torch.equal(got, tensor), key


@pytest.mark.parametrize("how", ["script", "trace"])
def test_the_state_dict_is_what_torch_gives(how: str, tmp_path: Path) -> None:
    net = Inner().eval()
    made = quiet(torch.jit.script, net) if how == "script" else quiet(torch.jit.trace, net, torch.ones(1, 2))
    quiet(torch.jit.save, made, tmp_path / "net.pt")
    as_torch_reads(tmp_path / "net.pt")


def test_clip_as_openai_saves_it() -> None:
    as_torch_reads(SCRIPT)
    assert {t.dtype for t in rawfile.read(SCRIPT).tree.values()} >= {torch.float16}  # type: ignore[attr-defined]


def test_the_code_is_not_run(tmp_path: Path) -> None:
    """An archive whose code is no code at all reads the same, as long as its two lists are there."""
    other = tmp_path / "net.pt"
    with zipfile.ZipFile(SCRIPT) as source, zipfile.ZipFile(other, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith(".py"):
                lines = data.decode().splitlines()
                data = "\n".join(x for x in lines if x.startswith(("class", "  __")) or not x.strip()).encode()
                data += b"\nthis is no code ((("
            target.writestr(entry, data)
    wanted, got = rawfile.read(SCRIPT).tree, rawfile.read(other).tree
    assert list(got) == list(wanted)
    assert all(torch.equal(got[k], wanted[k]) for k in wanted)  # type: ignore[arg-type]


def test_a_frozen_module_has_no_parameters(tmp_path: Path) -> None:
    net = quiet(torch.jit.freeze, quiet(torch.jit.script, Inner().eval()))
    quiet(torch.jit.save, net, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="constants of its code") as caught:
        rawfile.read(tmp_path / "net.pt")
    assert "state_dict() of the module it was made from" in str(caught.value)


def test_an_archive_without_its_code(tmp_path: Path) -> None:
    with zipfile.ZipFile(SCRIPT) as source, zipfile.ZipFile(tmp_path / "net.pt", "w") as target:
        for entry in source.infolist():
            if "/code/" not in entry.filename:
                target.writestr(entry, source.read(entry))
    with pytest.raises(CheckpointError, match=r"without the code of __torch__\."):
        rawfile.read(tmp_path / "net.pt")
