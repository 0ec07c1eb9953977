"""TorchScript archives read as tensors: parameters and buffers by name. Their code is read as text, and not run.

Which attributes of a module are parameters and which are buffers is written in the archive's code, as two lists at the
head of every class. The names are those that `torch.jit.load(file).state_dict()` gives.
"""

from __future__ import annotations

import io
import itertools
import pickle
import re
from collections.abc import Iterator
from typing import Any

import torch

from evaltk.checkpoints import tensor_parts
from evaltk.checkpoints.archive import Archive
from evaltk.checkpoints.inert_pickle import Reader
from evaltk.checkpoints.inert_values import Thing
from evaltk.checkpoints.plain_tree import MAX_DEPTH
from evaltk.errors import CheckpointError

CLASS = re.compile(r"^class (\w+)\(.*\):$")
LISTS = re.compile(r"^  __(parameters|buffers)__ = \[(.*)\]$")
ENTRY = re.compile(r'"([^"\\]+)"')
CODE_BYTES = 1 << 28
MODULES = 100_000


def state_dict(archive: Archive, data: bytes) -> dict[str, torch.Tensor]:
    """{name: tensor} of a TorchScript module's parameters and buffers.

    Raises: CheckpointError: a frozen or quantised module, whose weights are no parameters; pickle.UnpicklingError and
        others of `torchfile.DAMAGE`: damaged.
    """
    reader = Reader(io.BytesIO(data), len(data), calls=_calls(), persistent=archive.storage)
    module = reader.load()
    if not isinstance(module, Thing):
        raise pickle.UnpicklingError("a TorchScript archive of no module")
    out: dict[str, torch.Tensor] = {}
    _collect(module, "", _kept(archive), out, itertools.count(), 0)
    if not out:
        raise CheckpointError(
            wanted="a TorchScript module with parameters",
            got="one whose weights are constants of its code (frozen, or quantised)",
            where=archive.path,
            do="save the state_dict() of the module it was made from",
        )
    return out


def _calls() -> dict[str, Any]:
    # TorchScript writes typed lists and dicts by calls with the plain one.
    first = {
        f"torch.jit._pickle.{name}": lambda value, *_: value
        for name in (
            "build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "build_tensor_from_id",
            "restore_type_tag",
        )
    }  # fmt: skip
    return tensor_parts.calls() | first


def _kept(archive: Archive) -> dict[str, tuple[set[str], set[str]]]:
    """{class: (its parameters, its buffers)} as the archive's code lists them."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    total = 0
    for name in archive.names():
        if not (name.startswith("code/") and name.endswith(".py")):
            continue
        text = archive.record(name).decode("utf-8")
        total += len(text)
        if total > CODE_BYTES:
            raise pickle.UnpicklingError("a TorchScript archive with more code than a net has")
        module, lists = name.removeprefix("code/").removesuffix(".py").replace("/", "."), None
        for line in text.splitlines():
            if begins := CLASS.match(line):
                lists = found.setdefault(f"{module}.{begins[1]}", (set(), set()))
            elif lists is not None and (listed := LISTS.match(line)):
                lists[listed[1] == "buffers"].update(ENTRY.findall(listed[2]))
    return found


def _collect(
    module: Thing,
    prefix: str,
    kept: dict[str, tuple[set[str], set[str]]],
    out: dict[str, torch.Tensor],
    visits: Iterator[int],
    depth: int,
) -> None:
    if depth > MAX_DEPTH or next(visits) > MODULES:  # one module may lie in many places, and so on in these
        raise pickle.UnpicklingError("a module without end")
    state = module.state if isinstance(module.state, dict) else {}
    if module.name not in kept:
        raise pickle.UnpicklingError(f"an archive without the code of {module.name[:80]}")
    for names in kept[module.name]:  # in this order, as state_dict() has them
        for key, value in state.items():
            if key in names and isinstance(value, torch.Tensor):
                out[f"{prefix}{key}"] = value
    for key, value in state.items():
        if isinstance(value, Thing) and value.name.startswith("__torch__.") and "torch.classes." not in value.name:
            _collect(value, f"{prefix}{key}.", kept, out, visits, depth + 1)
