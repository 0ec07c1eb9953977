"""What a pickle may refer to and call when it is read as data: names, records of objects, a closed table of calls."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from evaltk import safe_pickle

Call = Callable[..., object]

# Modules whose functions reach outside of the process: a file that calls them is an attack, whatever else it holds.
HOSTILE = {
    "builtins", "os", "posix", "nt", "posixpath", "ntpath", "sys", "subprocess", "shutil", "socket", "runpy",
    "importlib", "pty", "ctypes", "pickle", "_pickle", "marshal", "pdb", "bdb", "timeit", "webbrowser",
}  # fmt: skip
# Of those: what objects, iterators and errors are made of.
HARMLESS = re.compile(
    r"builtins\.(object|type|slice|range|int|float|str|bool|list|dict|tuple|property|iter|zip|enumerate|reversed|xrange"
    r"|\w+(Error|Exception|Warning))"
)
# Functions of other modules that open files or run what is in them.
HOSTILE_CALLS = {
    "io.open", "_io.open", "_io.open_code", "torch.load", "torch.serialization.load", "torch.jit.load",
    "torch.hub.load", "numpy.load", "numpy.fromfile", "joblib.load", "dill.loads", "dill._dill.loads",
    "cloudpickle.loads", "pandas.read_pickle", "pandas.io.pickle.read_pickle", "yaml.load",
    "code.interact", "codeop.compile_command", "commands.getoutput", "pip.main", "pip._internal.main",
}  # fmt: skip
KEYS = (str, int, float, bytes, type(None))
LONGEST_NAME = 1000


class HostileError(pickle.UnpicklingError):
    """The pickle calls a function that reaches outside, such as `os.system`."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle refers to, by its dotted path."""

    path: str


@dataclass(slots=True, eq=False)
class Thing:
    """An object that was not made: its class, the arguments it was called with, and what it was filled with."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[tuple[Any, Any]] = field(default_factory=list)
    elements: list[Any] = field(default_factory=list)


def ordered(*args: Any) -> OrderedDict:
    """An OrderedDict, from nothing or from pairs, with keys that a dict of a file may have."""
    pairs = args[0] if args else []
    out: OrderedDict = OrderedDict()
    for key, value in pairs.items() if isinstance(pairs, dict) else members(pairs):
        out[flat_key(key)] = value
    return out


def members(*args: Any) -> list[Any]:
    """What lies in the first argument, [] without; a tensor, which may repeat one number without end, is none."""
    if args and not isinstance(args[0], list | tuple | dict | set | frozenset):
        raise pickle.UnpicklingError(f"a container made of a {type(args[0]).__name__}")
    return list(args[0]) if args else []


def text(value: object) -> str:
    """`value` where it is text. Nothing else is turned into text: that of lists in lists can take forever."""
    if not isinstance(value, str):
        raise pickle.UnpicklingError(f"a {type(value).__name__} where a text belongs")
    return value


def _get(parent: object, attribute: object, *_: object) -> Name:
    owner = parent.path if isinstance(parent, Name) else parent.name if isinstance(parent, Thing) else "?"
    return Name(f"{owner}.{text(attribute)}"[:LONGEST_NAME])


# What every pickle may call. Like all tables of calls it holds no function that reaches outside of its arguments.
PLAIN: Mapping[str, Call] = {
    "collections.OrderedDict": ordered,
    "collections.Counter": lambda *args: dict(ordered(*args)),
    "collections.defaultdict": lambda *_: {},
    "collections.deque": lambda *args: members(*args[:1]),
    "builtins.set": lambda *args: {flat_key(k) for k in members(*args)},
    "builtins.frozenset": lambda *args: frozenset(flat_key(k) for k in members(*args)),
    "builtins.complex": lambda *args: complex(*args),
    "builtins.bytearray": lambda *args: _bytes(*args),
    "builtins.bytes": lambda *args: _bytes(*args),
    "builtins.getattr": _get,
    "_codecs.encode": lambda what, form="utf-8": text(what).encode("latin1" if "latin" in text(form) else "utf-8"),
    "argparse.Namespace": lambda *_: argparse.Namespace(),
    "numpy.dtype": safe_pickle.DType,
    "numpy.core.multiarray.scalar": safe_pickle.scalar,
    "numpy._core.multiarray.scalar": safe_pickle.scalar,
    "copyreg._reconstructor": lambda cls, *rest: Thing(named(cls), rest),
    "copyreg.__newobj__": lambda cls, *rest: Thing(named(cls), rest),
}


def _bytes(*args: Any) -> bytes:
    if not args:
        return b""
    if isinstance(args[0], str | bytes):
        return args[0].encode("latin1") if isinstance(args[0], str) else args[0]
    return bytes(members(args[0]))  # bytes(10**12) is a bomb


def named(what: object) -> str:
    """The dotted path of a name, or of a thing's class."""
    return what.path if isinstance(what, Name) else what.name if isinstance(what, Thing) else type(what).__name__


def flat_key(key: object) -> Any:
    """`key` where a dict may have it. The hash of nested tuples can take forever, so they are flat here."""
    flat = isinstance(key, tuple) and all(type(part) in (*KEYS, bool, Name) for part in key)
    if flat or type(key) in (*KEYS, bool, complex, Name, Thing, torch.Tensor, torch.nn.Parameter):
        return key
    raise pickle.UnpicklingError(f"a key that is a {type(key).__name__}")


def reaches_outside(name: str) -> bool:
    """Whether a call of it is an attack."""
    return name in HOSTILE_CALLS or (name.partition(".")[0] in HOSTILE and not HARMLESS.fullmatch(name))
