"""Objects beside the weights are skipped and named, and every kind of tensor is what torch reads."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import struct
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from layouts import dino_full, save

import evaltk
from evaltk.checkpoints import rawfile
from evaltk.checkpoints.plain_tree import Skipped
from evaltk.errors import CheckpointError


class CfgNode(dict):
    """As yacs has it: a dict with attributes of its own."""

    def __init__(self, **items: Any) -> None:
        super().__init__(**items)
        self.__dict__["frozen"] = False


class ListNode(list):
    """A list with a name of its own."""


class AnyNode:
    """As omegaconf has it."""

    def __init__(self, parent: Any, value: Any) -> None:
        self.__dict__.update(_metadata=SimpleNamespace(key="k"), _parent=parent, _val=value)


class DictConfig:
    """As omegaconf has it: every node knows its parent."""

    def __init__(self, parent: Any, content: dict[str, Any]) -> None:
        nodes = {k: DictConfig(self, v) if isinstance(v, dict) else AnyNode(self, v) for k, v in content.items()}
        self.__dict__.update(_metadata=SimpleNamespace(key=None), _parent=parent, _content=nodes)


class Settings:
    """Attributes that are plain."""

    def __init__(self) -> None:
        self.lr, self.inner, self.fn = 0.5, {"a": [1, 2]}, functools.partial(print, 1)


class Average:
    """An object with tensors: an average of weights, say."""

    def __init__(self) -> None:
        self.shadow = torch.ones(2)


class Kind(enum.Enum):
    """A choice."""

    ONE = 1


class Sub(torch.Tensor):
    """A tensor of another class."""


def function() -> None:
    """A function that a file refers to."""


ME = __name__


def opened(tree: object, path: Path, **given: Any) -> rawfile.RawFile:
    return rawfile.read(save(tree, path, **given))


OBJECTS: list[tuple[Any, Any, str]] = [
    (CfgNode(a=1, b=CfgNode(c="x")), {"a": 1, "b": {"c": "x"}}, f"{ME}.CfgNode"),
    (ListNode([1, 2]), [1, 2], f"{ME}.ListNode"),
    (DictConfig(None, {"a": 1, "b": {"c": "x"}}), {"a": 1, "b": {"c": "x"}}, f"{ME}.DictConfig"),
    (SimpleNamespace(a=1), {"a": 1}, "types.SimpleNamespace"),
    (Average(), Skipped, f"{ME}.Average"),
    (Kind.ONE, Skipped, f"{ME}.Kind"),
    (functools.partial(function, 1), Skipped, "functools.partial"),
    (function, Skipped, f"{ME}.function"),
    (datetime.datetime(2024, 1, 2), Skipped, "datetime.datetime"),
    (np.zeros(3), Skipped, "numpy.ndarray"),
    (slice(1, 2), Skipped, "builtins.slice"),
    (print, Skipped, "builtins.print"),
    (range(3), Skipped, "range"),
    (iter([1]), Skipped, "builtins.iter"),
    (ValueError("x"), Skipped, "builtins.ValueError"),
    (type(None), Skipped, "builtins.type"),
]
PLAIN: list[tuple[Any, Any]] = [
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (collections.deque([1, 2], maxlen=3), [1, 2]),
    (collections.OrderedDict(a=1), {"a": 1}),
    (Path("/a/b"), "/a/b"),
    (torch.Size([1, 2]), (1, 2)),
    (torch.float16, "torch.float16"),
    (torch.device("cuda", 1), "cuda:1"),
    (np.float64(0.5), 0.5),
    (np.dtype("float32"), "<f4"),
    (argparse.Namespace(a=1), argparse.Namespace(a=1)),
    ({1, 2}, {1, 2}),
    (frozenset([1]), frozenset([1])),
    ((1, (2, "x")), (1, (2, "x"))),
    (1 << 70, 1 << 70),
    (-1.5, -1.5),
    (b"raw", b"raw"),
    (bytearray(b"raw"), b"raw"),
    (complex(1, 2), complex(1, 2)),
    (True, True),
    ("ü" * 300, "ü" * 300),
]
FORMS: list[dict[str, Any]] = [
    {},
    {"_use_new_zipfile_serialization": False},
    {"pickle_protocol": 4},
    {"pickle_protocol": 5, "_use_new_zipfile_serialization": False},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("what", "wanted", "name"), OBJECTS, ids=lambda v: type(v).__name__)
def test_objects_beside_the_weights(what: Any, wanted: Any, name: str, form: Any, tmp_path: Path) -> None:
    raw = opened({"model": {"w": torch.ones(2)}, "args": what}, tmp_path / "net.pth", **form)
    named = raw.skipped[0].replace("xrange", "range")  # Python 2's name, in protocol 2
    assert len(raw.skipped) == 1 and named.removeprefix("args: ") in (name, f"builtins.{name}")
    assert torch.equal(raw.tree["model"]["w"], torch.ones(2))  # type: ignore[index]
    got = raw.tree["args"]
    if wanted is Skipped:
        assert isinstance(got, Skipped) and named.endswith(got.name.replace("xrange", "range"))
    else:
        assert got == wanted and type(got) in (dict, list)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("what", "wanted"), PLAIN, ids=lambda v: type(v).__name__)
def test_plain_values(what: Any, wanted: Any, form: Any, tmp_path: Path) -> None:
    raw = opened({"w": torch.ones(2), "v": what}, tmp_path / "net.pth", **form)
    assert raw.skipped == () and raw.tree["v"] == wanted


def test_attributes_stay_readable_and_only_the_outer_object_is_named(tmp_path: Path) -> None:
    raw = opened({"w": torch.ones(1), "hyper_parameters": {"cfg": Settings(), 3: [Settings()]}}, tmp_path / "net.pth")
    assert raw.skipped == (f"hyper_parameters.3.0: {ME}.Settings", f"hyper_parameters.cfg: {ME}.Settings")
    read = raw.tree["hyper_parameters"]["cfg"]  # type: ignore[index]
    assert (read["lr"], read["inner"], read["fn"].name) == (0.5, {"a": [1, 2]}, "functools.partial")


def test_a_state_dict_of_another_class(tmp_path: Path) -> None:
    tree = CfgNode(w=torch.ones(2), optimizer=Average(), inner=CfgNode(cfg=Settings()))
    raw = opened(tree, tmp_path / "net.pth")
    assert raw.skipped == (f"inner.cfg: {ME}.Settings", f"optimizer: {ME}.Average", f"{ME}.CfgNode")
    assert [key for key, _ in rawfile.walk(raw.tree)] == ["w"]
    with pytest.raises(CheckpointError, match=r"dense tensors; got inner\.w, sparse"):
        opened(CfgNode(inner=CfgNode(w=torch.eye(2).to_sparse())), tmp_path / "sparse.pth")


def test_a_class_and_its_name_as_keys(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="two keys"):
        opened({"c": {Settings: torch.ones(1), f"{ME}.Settings": torch.zeros(1)}}, tmp_path / "net.pth")


def test_a_class_that_is_a_key(tmp_path: Path) -> None:
    raw = opened({"w": torch.ones(1), "callbacks": {Settings: {"best": 1}}}, tmp_path / "net.pth")
    assert raw.tree["callbacks"] == {f"{ME}.Settings": {"best": 1}}


def test_a_net_loads_with_all_of_them_beside_it(tmp_path: Path) -> None:
    tree = dino_full(args=argparse.Namespace(arch="ours", path=Path("/x")), extra=[what for what, _, _ in OBJECTS])
    tree["optimizer"] = {"state": tree.pop("extra"), "hook": function}
    assert evaltk.load_checkpoint(save(tree, tmp_path / "net.pth"), num_heads=3).family == "dino"


def test_a_whole_optimizer_beside_the_weights(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    raw = opened({"model": net.state_dict(), "optimizer": optimizer}, tmp_path / "net.pth")
    assert raw.skipped == ("optimizer: torch.optim.adamw.AdamW",)
    assert [key for key, _ in rawfile.walk(raw.tree)] == ["model.weight", "model.bias"]
    with pytest.raises(CheckpointError, match=r"got a torch\.optim\.adamw\.AdamW"):
        opened(optimizer, tmp_path / "optimizer.pth")


def test_many_objects_are_not_all_named(tmp_path: Path) -> None:
    raw = opened({"w": torch.ones(1), "all": [Settings() for _ in range(300)]}, tmp_path / "net.pth")
    assert len(raw.skipped) == 50


def weights() -> dict[str, Any]:
    base = torch.arange(24, dtype=torch.float32)
    return {
        "view": base.view(4, 6)[1:3, ::2],
        "shared": base[3:9],
        "overlapping": base.as_strided((5, 4), (1, 2), 3),
        "expanded": torch.ones(1).expand(3, 4),
        "transposed": base.view(4, 6).t(),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(7),
        "subclass": torch.ones(2).as_subclass(Sub),
        "conjugate": torch.complex(torch.ones(2), torch.ones(2)).conj(),
        "negative": torch.complex(torch.ones(2), torch.ones(2)).conj().imag,
        "uint16": torch.ones(3, dtype=torch.uint16),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
    } | {
        str(dtype): torch.ones(3, dtype=dtype)
        for dtype in (
            torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
            torch.uint8, torch.bool, torch.complex64,
        )
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_kind_of_tensor_is_what_torch_reads(form: Any, tmp_path: Path) -> None:
    path = save(weights(), tmp_path / "net.pth", **form)
    got = rawfile.read(path).tree
    assert list(got) == list(weights())
    for key, wanted in weights().items():
        tensor = got[key]
        assert isinstance(tensor, torch.Tensor) and tensor.dtype == wanted.dtype and tensor.shape == wanted.shape, key
        assert tensor.stride() == wanted.stride(), key
        exact = (t.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg() for t in (tensor, wanted))
        a, b = (t.view(torch.uint8) if t.dtype == torch.float8_e4m3fn else t for t in exact)
        assert torch.equal(a, b), key
    assert got["view"].untyped_storage().data_ptr() == got["shared"].untyped_storage().data_ptr()  # type: ignore[attr-defined]


def test_a_file_of_a_big_endian_machine(tmp_path: Path) -> None:
    whole = save({"w": torch.tensor([1.0, 2.0])}, tmp_path / "net.pth")
    other = tmp_path / "big.pth"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(other, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            data = b"big" if entry.filename.endswith("byteorder") else data
            target.writestr(entry.filename, struct.pack(">2f", 1, 2) if entry.filename.endswith("data/0") else data)
    got = rawfile.read(other).tree["w"]
    assert sys.byteorder == "little" and torch.equal(got, torch.tensor([1.0, 2.0]))  # type: ignore[arg-type]


STEPS = {"ema": "net", "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}}}, "best": torch.ones(1)}


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("tree", ["net", {"model": "net", "epoch": 3}, STEPS])
def test_a_pickled_module_is_refused_with_the_line_to_run(tree: Any, form: Any, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    whole = net if isinstance(tree, str) else {k: net if isinstance(v, str) else v for k, v in tree.items()}
    with pytest.raises(CheckpointError, match=r"pickled module of the class torch\.nn\.modules\.container") as caught:
        opened(whole, tmp_path / "net.pth", **form)
    assert 'run: torch.save(model.state_dict(), "net.pth")' in str(caught.value)


def test_a_module_beside_the_weights_is_skipped(tmp_path: Path) -> None:
    tree = {"state_dict": {"w": torch.ones(1, 1)}, "hyper_parameters": {"net": torch.nn.Linear(2, 2)}}
    raw = opened(tree | {"loss": torch.nn.Linear(1, 1)}, tmp_path / "net.pth")
    linear = "torch.nn.modules.linear.Linear"
    assert raw.skipped == (f"hyper_parameters.net: {linear}", f"loss: {linear}")
