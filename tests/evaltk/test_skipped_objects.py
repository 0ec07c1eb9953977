"""Objects beside the weights are skipped and named; whatever a pickle asks for, nothing of it is made or run."""

from __future__ import annotations

import argparse
import collections
import copyreg
import datetime
import enum
import functools
import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from layouts import dino_full, save, vit

import evaltk
from evaltk.checkpoints import rawfile
from evaltk.checkpoints.inert_pickle import HostileError, Reader
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
MADE: list[str] = []


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
    assert raw.skipped == (f"args: {name}",)
    assert torch.equal(raw.tree["model"]["w"], torch.ones(2))  # type: ignore[index]
    got = raw.tree["args"]
    if wanted is Skipped:
        assert isinstance(got, Skipped) and got.name == name
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


def test_a_class_that_is_a_key(tmp_path: Path) -> None:
    raw = opened({"w": torch.ones(1), "callbacks": {Settings: {"best": 1}}}, tmp_path / "net.pth")
    assert raw.tree["callbacks"] == {f"{ME}.Settings": {"best": 1}}


def test_a_net_loads_with_all_of_them_beside_it(tmp_path: Path) -> None:
    tree = dino_full(args=argparse.Namespace(arch="ours", path=Path("/x")), extra=[what for what, _, _ in OBJECTS])
    tree["optimizer"] = {"state": tree.pop("extra"), "hook": function}
    assert evaltk.load_checkpoint(save(tree, tmp_path / "net.pth"), num_heads=3).family == "dino"


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


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("tree", ["net", {"model": "net", "epoch": 3}, {"ema": "net", "optimizer": {"state": {}}}])
def test_a_pickled_module_is_refused_with_the_line_to_run(tree: Any, form: Any, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    whole = net if tree == "net" else {k: net if v == "net" else v for k, v in tree.items()}
    with pytest.raises(CheckpointError, match=r"pickled module of the class torch\.nn\.modules\.container") as caught:
        opened(whole, tmp_path / "net.pth", **form)
    assert 'run: torch.save(model.state_dict(), "net.pth")' in str(caught.value)


def test_a_module_beside_the_weights_is_skipped(tmp_path: Path) -> None:
    tree = {"state_dict": {"w": torch.ones(1)}, "hyper_parameters": {"net": torch.nn.Linear(2, 2)}}
    raw = opened(tree | {"loss": torch.nn.Linear(1, 1)}, tmp_path / "net.pth")
    linear = "torch.nn.modules.linear.Linear"
    assert raw.skipped == (f"hyper_parameters.net: {linear}", f"loss: {linear}")


def made(*_: object, **__: object) -> None:
    MADE.append("a call")


class Asks:
    """Pickled as any call with any state and items."""

    def __init__(self, function: Any, *args: Any, **rest: Any) -> None:
        self.parts = (function, args, rest.get("state"), iter(rest.get("items", ())), iter(rest.get("pairs", ())))

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return self.parts


HOSTILE: dict[str, Callable[[], Any]] = {
    "eval": lambda: Asks(eval, "MADE"),
    "exec": lambda: Asks(exec, "MADE"),
    "open": lambda: Asks(open, "/tmp/x"),
    "import": lambda: Asks(__import__, "os"),
    "through getattr": lambda: Asks(Asks(getattr, sys, "exit"), 1),
    "deep": lambda: {"a": [{"b": Asks(eval, "1")}]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_calls_that_reach_outside_are_an_attack(name: str, tmp_path: Path) -> None:
    what = HOSTILE[name]()
    if name == "through getattr":
        data = (
            b"\x80\x02cbuiltins\ngetattr\nq\x00cos\npath\nq\x01X\x06\x00\x00\x00systemq\x02\x86R(X\x01\x00\x00\x00xtR."
        )
        with pytest.raises(HostileError):
            Reader(io.BytesIO(data), len(data), calls={}, persistent=lambda _: None).load()
        return
    with pytest.raises(CheckpointError, match=r"a call of (builtins|io|_io)\.\w+, which was not made"):
        opened({"w": torch.ones(1), "a": what}, tmp_path / "net.pth")


def test_nothing_of_a_file_is_made_or_filled(tmp_path: Path) -> None:
    """Calls, states, items and elements of real functions and classes: all of it is only written down."""
    stand = Asks(made, 1, state={"__class__": made, "__dict__": {"a": 1}}, items=[1], pairs=[("a", 2)])
    before = dict(vars(torch._utils._rebuild_tensor_v2)), vars(Settings).copy()
    tree = {
        "w": torch.ones(1),
        "a": stand,
        "b": Asks(Settings, state=({"lr": 2}, {"__init__": made})),
        "c": Asks(made, state=(None, {"__defaults__": (1,)})),
        "d": Asks(copyreg._reconstructor, Settings, object, None),  # type: ignore[attr-defined]
        "e": Asks(functools.partial, made, state=(made, (1,), {}, {})),
    }
    raw = opened(tree, tmp_path / "net.pth")
    assert MADE == [] and made.__defaults__ is None
    assert (dict(vars(torch._utils._rebuild_tensor_v2)), vars(Settings).copy()) == before
    assert torch.equal(raw.tree["w"], torch.ones(1))  # type: ignore[arg-type]


BAD_PICKLES: dict[str, bytes] = {
    "an extension": b"\x80\x02\x82\x01.",
    "a buffer out of band": b"\x80\x05\x97.",
    "state on a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",
    "state on a number": b"\x80\x02K\x01}b.",
    "items on a number": b"\x80\x02K\x01K\x02K\x03s.",
    "a call of a number": b"\x80\x02K\x01)R.",
    "a call with a list": b"\x80\x02cargparse\nNamespace\n]R.",
    "a persistent id of its own": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "an id out of range": b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x019U\x03cpuK\x01tQ.",
    "a memo of 4 GB": b"\x80\x02K\x01r\xff\xff\xff\x7f0h\x00.",
    "text of 4 GB": b"\x80\x02X\xff\xff\xff\xffa.",
    "bytes of 2**63": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.",
    "bytes by their number": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "a Namespace of numbers": b"\x80\x02cargparse\nNamespace\n)R}K\x01K\x02sb.",
    "a name without end": b"\x80\x02c" + b"a" * 5000 + b"\n.",
    "no end": b"\x80\x02}",
    "nothing on the stack": b"\x80\x02.",
    "no mark": b"\x80\x02t.",
    "tuples of tuples as a key": b"\x80\x02)" + b"2\x86" * 60 + b"\x85q\x00}h\x00K\x01s.",
    "a dtype of pointers": b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x01OK\x00K\x01\x87RC\x08"
    b"aaaaaaaa\x86R.",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PICKLES)
def test_what_no_checkpoint_holds(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", BAD_PICKLES[name])
    with pytest.raises(CheckpointError) as caught:
        rawfile.read(path)
    assert "a whole file written by torch.save" in str(caught.value) or "a dict of tensors" in str(caught.value)


def zipped(path: Path, data: bytes, storage: bytes, **given: Any) -> Path:
    with zipfile.ZipFile(path, "w", **given) as archive:
        archive.writestr("net/data.pkl", data)
        archive.writestr("net/data/0", storage)
    return path


class Stored:
    """Pickled as one tensor over the storage 0."""

    def __init__(self, *parts: Any, numel: int = 4) -> None:
        self.parts, self.numel = parts, numel


class Writer(pickle.Pickler):
    def reducer_override(self, what: Any) -> Any:
        if isinstance(what, Stored):
            return torch._utils._rebuild_tensor_v2, (what, *what.parts, False, collections.OrderedDict())
        return NotImplemented

    def persistent_id(self, what: Any) -> Any:
        if isinstance(what, Stored) and what.parts[-1:] == ("storage",):
            return ("storage", torch.FloatStorage, "0", "cpu", what.numel)
        return None


def tensor_pickle(offset: Any, size: Any, stride: Any, numel: int = 4) -> bytes:
    """data.pkl of {"w": a tensor over the storage "0"}."""
    out = io.BytesIO()
    pickler = Writer(out, protocol=2)
    storage = Stored("storage", numel=numel)
    call = Asks(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, collections.OrderedDict())
    pickler.dump({"w": call})
    return out.getvalue()


SIXTEEN = np.arange(4, dtype=np.float32).tobytes()


def test_a_tensor_made_by_hand_is_read(tmp_path: Path) -> None:
    got = rawfile.read(zipped(tmp_path / "net.pth", tensor_pickle(1, (3,), (1,)), SIXTEEN)).tree["w"]
    assert torch.equal(got, torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "parts",
    [
        (0, (5,), (1,)), (3, (2,), (1,)), (0, (2, 2), (3, 2)), (-1, (1,), (1,)), (0, (-1,), (1,)), (0, (2,), (-1,)),
        (0, (2,), (1, 1)), (0, 2, 1), (0.5, (1,), (1,)), (0, (1 << 61,), (0,)), (0, (1 << 40,) * 4, (0,) * 4),
        (1 << 63, (1,), (1,)), (0, (True,), (1,)), (0, (1 << 40,), (0,)), (0, (1,) * 100, (1,) * 100),
    ],
)  # fmt: skip
def test_tensors_outside_of_their_storage(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a tensor|a size"):
        rawfile.read(zipped(tmp_path / "net.pth", tensor_pickle(*parts), SIXTEEN))


def test_storages_of_a_wrong_size_and_a_bomb(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="one of 16 bytes where data/0 takes 40"):
        rawfile.read(zipped(tmp_path / "net.pth", tensor_pickle(0, (1,), (1,), numel=10), SIXTEEN))
    bomb = zipped(tmp_path / "bomb.pth", tensor_pickle(0, (1,), (1,)), SIXTEEN)
    data = bytearray(zipped(bomb, tensor_pickle(0, (1,), (1,)), bytes(10_000), compression=8).read_bytes())
    at = data.rfind(b"PK\x01\x02")  # the entry of the storage in the directory
    data[at + 24 : at + 28] = struct.pack("<I", 0xFFFF_FFF0)
    bomb.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"unpacks to 4,29"):
        rawfile.read(bomb)


def test_a_name_that_is_not_ascii_and_two_trees(tmp_path: Path) -> None:
    assert torch.equal(opened({"w": torch.ones(2)}, tmp_path / "größe.pth").tree["w"], torch.ones(2))  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "two.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"x")
        archive.writestr("b/data.pkl", b"x")
    with pytest.raises(CheckpointError, match="two trees, a/ and b/"):
        rawfile.read(tmp_path / "two.pth")


def test_a_changed_tree_is_noticed(tmp_path: Path) -> None:
    """One shard's key for another's would swap two tensors in silence."""
    path = save({"a": torch.zeros(2), "b": torch.ones(2)}, tmp_path / "net.pth")
    data = path.read_bytes()
    at = data.index(b"X\x01\x00\x00\x00b")
    path.write_bytes(data[: at + 5] + b"c" + data[at + 6 :])
    with pytest.raises(CheckpointError, match="was changed"):
        rawfile.read(path)
    torch.serialization.set_crc32_options(False)
    try:
        assert torch.equal(opened(vit(), tmp_path / "plain.pth").tree["norm.weight"], vit()["norm.weight"])  # type: ignore[arg-type]
    finally:
        torch.serialization.set_crc32_options(True)
