"""From what a pickle asked for to plain values: settings stay readable, every other object is skipped and named."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from evaltk import safe_pickle
from evaltk.checkpoints.inert_values import Name, Thing
from evaltk.errors import CheckpointError

MAX_DEPTH = 64  # of dicts and lists in dicts and lists; deeper ones have no end, or are no checkpoint
NAMED = 50  # objects that are named; a file may hold thousands
# Calls that make tensors which are no plain numbers.
OTHER_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_meta_tensor_no_storage": "on the meta device",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_wrapper_subclass": "a wrapper without numbers of its own",
    "torch.distributed.tensor.DTensor": "a shard of a tensor (DTensor)",
    "torch.distributed._tensor.api.DTensor": "a shard of a tensor (DTensor)",
    "torch.distributed._shard.sharded_tensor.api.ShardedTensor": "a shard of a tensor (ShardedTensor)",
}
MODULE = ("_parameters", "_modules")  # in the state of every nn.Module
ARRAYS = ("core.multiarray._reconstruct", "core.numeric._frombuffer")
SAVE = 'torch.save(model.state_dict(), "net.pth")'


@dataclass(frozen=True, slots=True, eq=False)
class Skipped:
    """Stands where a file holds an object that is neither tensor nor plain value; `name` is its class."""

    name: str

    def __str__(self) -> str:
        return self.name


def plain(tree: object, path: Path) -> tuple[object, tuple[str, ...]]:
    """The tree with plain values for objects, and the names of those skipped: ("args: mypkg.config.Config", ...).

    A dict or list subclass (CfgNode, defaultdict) becomes a dict or list, an object with plain attributes a dict of
    them, omegaconf's nodes their content, paths, dtypes and devices text. Containers are changed in place.

    Raises: CheckpointError: a pickled module where the net should be, tensors that are not dense, a tree without end.
    """
    _refuse_modules(tree, path)
    walk = _Walk(path)
    out = walk.value(tree, "", 0)
    return out, tuple(sorted(walk.skipped)[:NAMED])


def walk(tree: object, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in the tree with its dotted path; a container that is held twice is walked once.

    Raises: CheckpointError: a tree without end.
    """
    return _walk(tree, prefix, 0, set())


def _walk(tree: object, prefix: str, depth: int, walked: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        yield prefix, tree
    elif isinstance(tree, Mapping | list | tuple | argparse.Namespace) and id(tree) not in walked:
        walked.add(id(tree))
        if depth == MAX_DEPTH:
            wanted = f"a tree of at most {MAX_DEPTH} levels"
            raise CheckpointError(wanted=wanted, got="more", where=prefix[:80], do="save a plain state_dict")
        inner = vars(tree) if isinstance(tree, argparse.Namespace) else tree
        for key, value in inner.items() if isinstance(inner, Mapping) else enumerate(inner):
            yield from _walk(value, f"{prefix}.{key}" if prefix else str(key), depth + 1, walked)


class _Walk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, tuple[Any, Any]] = {}  # id of a container -> (it, so that its id stays its own; result)
        self.skipped: list[str] = []
        self.inside = 0  # of the attributes of how many objects: only the outermost is named
        self.around: list[str] = []  # classes of the containers around: a CfgNode in a CfgNode is not named again

    def value(self, value: Any, where: str, depth: int) -> Any:
        if isinstance(value, Name | safe_pickle.DType):
            return self._word(value, where)
        if isinstance(value, torch.Tensor) or not isinstance(
            value, dict | list | tuple | set | frozenset | argparse.Namespace | Thing | Skipped
        ):
            return value if _is_plain(value) else self._skip(type(value).__name__, where)
        if id(value) in self.done:
            return self.done[id(value)][1]
        if depth == MAX_DEPTH:
            if self.inside:
                return Skipped("deeper")
            wanted = f"a tree of at most {MAX_DEPTH} levels"
            raise CheckpointError(wanted=wanted, got="more", where=where[:80], do="save a plain state_dict")
        if isinstance(value, Thing):
            return self._thing(value, where, depth)
        if isinstance(value, Skipped):
            return value
        return self._container(value, where, depth)

    def _container(self, value: Any, where: str, depth: int) -> Any:
        if isinstance(value, tuple):
            out = tuple(self.value(v, f"{where}.{i}", depth + 1) for i, v in enumerate(value))
            self.done[id(value)] = (value, out)
            return out
        self.done[id(value)] = (value, value)
        if isinstance(value, list):
            value[:] = [self.value(v, f"{where}.{i}", depth + 1) for i, v in enumerate(value)]
        elif isinstance(value, argparse.Namespace):
            self._container(vars(value), where, depth)
        elif isinstance(value, dict):
            for key in list(value):
                inner = value.pop(key)  # put back at the end, so that the order stays
                name = self._key(key)
                if name in value:
                    raise pickle.UnpicklingError(f"two keys {str(name)[:60]!r}")
                value[name] = self.value(inner, f"{where}.{name}" if where else str(name), depth + 1)
        elif any(isinstance(v, Name | Thing | tuple) for v in value):
            return [self.value(v, where, depth + 1) for v in value]
        return value

    def _key(self, key: Any) -> Any:
        if isinstance(key, Name):
            return key.path
        if isinstance(key, Thing | torch.Tensor):  # a pickled optimizer keeps its state by parameters
            return Skipped(key.name if isinstance(key, Thing) else "torch.Tensor")
        return tuple(part.path if isinstance(part, Name) else part for part in key) if isinstance(key, tuple) else key

    def _word(self, value: Name | safe_pickle.DType, where: str) -> Any:
        if isinstance(value, safe_pickle.DType):
            return value.text if isinstance(value.text, str) else self._skip("numpy.dtype", where)
        if value.path.startswith("torch.") and isinstance(_of_torch(value.path), torch.dtype | torch.layout):
            return value.path
        return self._skip(value.path, where)

    def _thing(self, thing: Thing, where: str, depth: int) -> Any:
        if kind := OTHER_TENSORS.get(thing.name):
            if self.inside:
                return Skipped(thing.name)
            got = f"{where}, {kind}"
            raise CheckpointError(wanted="dense tensors", got=got, where=self.path, do="save plain float tensors")
        if thing.name.startswith("pathlib.") and all(isinstance(a, str) for a in thing.args):
            return str(PurePosixPath(*thing.args))
        if thing.name == "torch.device" and all(isinstance(a, str | int) for a in thing.args):
            return ":".join(str(a) for a in thing.args)
        if thing.name == "torch.nn.parameter.Parameter" and isinstance(thing.state, tuple | list) and thing.state:
            return self.value(thing.state[0], where, depth)  # as torch before 0.4 wrote them
        name = "numpy.ndarray" if thing.name.endswith(ARRAYS) else thing.name
        if _is_omega(thing.state):
            out = thing.state["_content"] if "_content" in thing.state else thing.state["_val"]
        else:
            out = _attributes(thing)
        if not isinstance(out, dict | list):
            out = self.value(out, where, depth) if _is_omega(thing.state) else self._skip(name, where)
            self.done[id(thing)] = (thing, out)
            return out
        self._skip(name, where)
        self.done[id(thing)] = (thing, out)
        attributes = not (thing.items or thing.elements)
        self.inside += attributes
        self.around.append(name)
        out = self._container(out, where, depth)
        self.around.pop()
        self.inside -= attributes
        return out

    def _skip(self, name: str, where: str) -> Skipped:
        if not self.inside and name not in self.around:
            self.skipped.append(f"{where}: {name}" if where else name)
        return Skipped(name)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.Tensor)


def _of_torch(path: str) -> object:
    name = path.removeprefix("torch.")
    return vars(torch).get(name)


def _is_omega(state: object) -> bool:
    return isinstance(state, Mapping) and ("_content" in state or "_val" in state) and "_parent" in state


def _attributes(thing: Thing) -> dict | list | None:
    """What is readable of an object: its items, its elements, or its attributes where there are no tensors in them."""
    if thing.items:
        return dict(thing.items)
    if thing.elements:
        return thing.elements
    if isinstance(thing.state, dict) and thing.state and not _has_tensors(thing.state):
        return dict(thing.state)
    return None


def _has_tensors(value: Any, depth: int = 8, seen: set[int] | None = None) -> bool:
    """Whether tensors lie in it, as deep as attributes of attributes go; what lies deeper counts as one."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        return True
    if id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, Thing):
        inner: list[Any] = [*value.args, value.state, *(v for _, v in value.items), *value.elements]
    elif isinstance(value, argparse.Namespace):
        inner = list(vars(value).values())
    elif isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list | tuple):
        inner = list(value)
    else:
        return False
    return depth == 0 or any(_has_tensors(v, depth - 1, seen) for v in inner)


def _is_module(value: object) -> bool:
    state = value.state if isinstance(value, Thing) else None
    return isinstance(state, dict) and all(key in state for key in MODULE)


def _has_weights(tree: object, seen: set[int]) -> bool:
    """Whether matrices lie under names, as in a state dict; an optimizer's lie under numbers."""
    if not isinstance(tree, dict) or id(tree) in seen or len(seen) > 100_000:
        return False
    seen.add(id(tree))
    named = [value for key, value in tree.items() if isinstance(key, str)]
    if any(isinstance(value, torch.Tensor) and value.ndim > 1 for value in named):
        return True
    return any(_has_weights(value, seen) for value in named)


def _refuse_modules(tree: object, path: Path) -> None:
    """A pickled module at the top, or as an entry of a file that holds no other net."""
    if _is_module(tree):
        found = tree
    elif isinstance(tree, dict):
        found = next((v for v in tree.values() if _is_module(v) and _has_tensors(v, 24)), None)
    else:
        return
    if isinstance(found, Thing) and not _has_weights(tree, set()):
        key = next((f"{k}, " for k, v in tree.items() if v is found), "") if isinstance(tree, dict) else ""
        raise CheckpointError(
            wanted="a state_dict",
            got=f"{key}a pickled module of the class {found.name[:120]}, which was not loaded",
            where=path,
            do=f"where you trust the file, load it as `model` in the code that defines its class, and run: {SAVE}",
        )
