"""Whatever a pickle asks for, nothing of it is made or run: calls, states, sizes, ids and archives made by hand."""

from __future__ import annotations

import collections
import copyreg
import functools
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import save, vit

from evaltk.checkpoints import rawfile
from evaltk.checkpoints.inert_pickle import Reader
from evaltk.checkpoints.inert_values import HostileError
from evaltk.errors import CheckpointError

MADE: list[str] = []


class Settings:
    """A class that files refer to."""


def opened(tree: object, path: Path) -> rawfile.RawFile:
    return rawfile.read(save(tree, path))


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
    "deep": lambda: {"a": [{"b": Asks(eval, "1")}]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_calls_that_reach_outside_are_an_attack(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a call of (builtins|io|_io)\.\w+, which was not made"):
        opened({"w": torch.ones(1), "a": HOSTILE[name]()}, tmp_path / "net.pth")


def test_a_function_reached_through_getattr_is_one_too() -> None:
    data = b"\x80\x02cbuiltins\ngetattr\ncos\npath\nU\x06system\x86RU\x01x\x85R."
    with pytest.raises(HostileError, match=r"os\.path\.system"):
        Reader(io.BytesIO(data), len(data), calls={}, persistent=lambda _: None).load()


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


# A list that holds a list twice, and so on: its text, and a walk that does not remember, would take forever.
LISTS = b"]q\x01" + b"".join(b"0](h%ch%ceq%c" % (i, i, i + 1) for i in range(1, 61))
WIDE = b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQK\x00"
WIDE += b"J\xff\xff\xff\x7f\x85K\x00\x85\x89}tR"  # 2**31 - 1 times the first number
ENDLESS: dict[str, bytes] = {
    "lists as a device": b"ctorch\ndevice\n" + LISTS + b"\x85R.",
    "lists as a storage's key": b"(U\x07storagectorch\nFloatStorage\n" + LISTS + b"U\x03cpuK\x01tQ.",
    "lists as a storage's kind": b"(U\x07storage" + LISTS + b"U\x010U\x03cpuK\x01tQ.",
    "lists as a size": b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + LISTS + b"tQ.",
    "lists as an attribute": b"cbuiltins\ngetattr\nca\nb\n" + LISTS + b"\x86R.",
    "lists as a text": b"c_codecs\nencode\n" + LISTS + b"\x85R.",
    "lists as a dtype": b"cnumpy\ndtype\n" + LISTS + b"\x85R.",
    "lists as a byte order": b"cnumpy\ndtype\nU\x02f4\x85R(K\x03" + LISTS + b"tb.",
    "lists as a layout": b"ctorch.serialization\n_get_layout\n" + LISTS + b"\x85R.",
    "a deque of a wide tensor": b"ccollections\ndeque\n" + WIDE + b"\x85R.",
    "a set of a wide tensor": b"cbuiltins\nset\n" + WIDE + b"\x85R.",
    "a size of a wide tensor": b"ctorch\nSize\n" + WIDE + b"\x85R.",
    "bytes of a wide tensor": b"cbuiltins\nbytearray\n" + WIDE + b"\x85R.",
    "a dict of a wide tensor": b"ccollections\nOrderedDict\n" + WIDE + b"\x85R.",
    "lists alone": LISTS + b".",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_would_take_forever(name: str, tmp_path: Path) -> None:
    """Each of them is an error, or skipped, at once."""
    data = b"\x80\x02}U\x01w" + ENDLESS[name].removesuffix(b".") + b"s."
    try:
        raw = rawfile.read(zipped(tmp_path / "net.pth", data, SIXTEEN))
    except CheckpointError as error:
        assert "a whole file written by torch.save" in str(error)
    else:
        assert list(rawfile.walk(raw.tree)) == []


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
    """Pickled as the storage 0."""

    def __init__(self, numel: int) -> None:
        self.numel = numel


class Writer(pickle.Pickler):
    def persistent_id(self, what: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", what.numel) if isinstance(what, Stored) else None


def tensor_pickle(offset: Any, size: Any, stride: Any, numel: int = 4) -> bytes:
    """data.pkl of {"w": a tensor over the storage "0"}."""
    out = io.BytesIO()
    parts = (Stored(numel), offset, size, stride, False, collections.OrderedDict())
    Writer(out, protocol=2).dump({"w": Asks(torch._utils._rebuild_tensor_v2, *parts)})
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
