"""The nets behind a function of images: found wherever the function refers to them, in eval mode meanwhile, hashed."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

DEEP = 3  # steps from the function to a net: its closure, an object there, that object's attribute


def modules(function: Callable[..., object]) -> tuple[nn.Module, ...]:
    """The outermost modules that a call of `function` may use: itself, or those its closure, defaults, globals,
    partial arguments and objects hold. A lambda around a net must not hide that the net is in training mode."""
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def visit(value: object, depth: int) -> None:
        if id(value) in seen or depth > DEEP:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found[id(value)] = value
            return
        for inner in _held(value):
            visit(inner, depth + 1)

    visit(function, 0)
    below = {id(part) for module in found.values() for part in module.modules() if part is not module}
    return tuple(module for key, module in found.items() if key not in below)


def _held(value: object) -> list[object]:
    """What a function or plain object refers to, one step on."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        used = [value.__globals__[name] for name in sorted(_names(value.__code__)) if name in value.__globals__]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *used]
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, type | types.ModuleType | torch.Tensor):
        return []
    return list(getattr(value, "__dict__", {}).values())


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not assigned yet
        return False


def _names(code: types.CodeType) -> set[str]:
    """Global names in a function's code and in that of the functions inside it."""
    inner = [_names(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*inner)


@contextmanager
def evaluating(nets: Sequence[nn.Module]) -> Iterator[None]:
    """Eval mode inside; afterwards, also after an exception, every module has the mode that it had.

    The flags alone are set: `train()` of some modules does more (merging adapters), which would change weights.
    """
    before = {id(part): (part, part.training) for net in nets for part in net.modules()}
    try:
        for part, _ in before.values():
            part.training = False
        yield
    finally:
        for part, flag in before.values():
            part.training = flag


def tensors(nets: Sequence[nn.Module]) -> Iterator[torch.Tensor]:
    """Parameters, then buffers."""
    for net in nets:
        yield from net.parameters()
        yield from net.buffers()


def digest(nets: Sequence[nn.Module]) -> str:
    """sha256 in hex of the state dicts: names, shapes, types and bytes."""
    state = hashlib.sha256()
    for net in nets:
        for name, value in sorted(net.state_dict().items()):
            if not isinstance(value, torch.Tensor):  # a module's own extra state
                state.update(f"{name}{value!r}".encode())
                continue
            state.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            state.update(_plain(value).contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU, neither sparse nor quantised."""
    tensor = tensor.detach().cpu()
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def code_digest(function: Callable[..., object]) -> str:
    """sha256 in hex of what the function is called and of its code; "" for a module."""
    if isinstance(function, nn.Module):
        return ""
    inner = getattr(function, "__func__", function)
    code = getattr(inner, "__code__", None)
    state = hashlib.sha256(f"{type(function).__qualname__} {getattr(inner, '__qualname__', '')}".encode())
    if isinstance(code, types.CodeType):
        state.update(_code(code))
    return state.hexdigest()


def _code(code: types.CodeType) -> bytes:
    consts = [_code(c) if isinstance(c, types.CodeType) else repr(c).encode() for c in code.co_consts]
    return b"\0".join([code.co_code, " ".join((*code.co_names, *code.co_varnames)).encode(), *consts])
