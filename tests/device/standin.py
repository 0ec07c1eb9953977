"""A stand-in for a GPU: a device whose memory is the host's, but whose tensors refuse to mix with the host's.

What runs on it has no device confused, and every time the host waits for the device is counted, with its line. It
computes with the CPU's kernels, so results can be compared to the bit. It knows no streams, no page-locked memory and
no autocast of its own.
"""

from __future__ import annotations

import collections
import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "standin"
THERE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / package) for package in ("evaltk", "pretrain", "protocols"))
# The host waits for a number, or for a shape.
READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_consecutive",
         "bincount")  # fmt: skip
# Operators that take indices from either side, as CUDA's do; numbers in tensors without dimensions mix everywhere.
MIXING = ("copy_", "_to_copy", "to", "index", "index_put", "index_put_", "_index_put_impl_", "_copy_from")


class MixedDevices(RuntimeError):
    """An operation on tensors of the device and of the host."""


class DeviceTensor(torch.Tensor):
    """A tensor of the device; `raw` is where its numbers are."""

    raw: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: Any, raw: torch.Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.raw!r})"

    def tolist(self) -> Any:
        """As torch's, which knows nothing of devices in Python."""
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Standin(TorchDispatchMode):
    """Inside, the device is there. reads: how often the host waited, by line; sends: blocking copies to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: collections.Counter[str] = collections.Counter()
        self.sends: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self)


_ACTIVE: list[Standin] = []


def line() -> str:
    """file:line of the innermost frame of the project."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(OURS):
            return f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
    return "a test"


def _on_device(device: Any) -> bool:
    return torch.device(device).type == NAME


def _target(name: str, args: Any, kwargs: dict[str, Any]) -> bool | None:
    """Whether a device is named, and it is this one."""
    if kwargs.get("device") is not None:
        return _on_device(kwargs["device"])
    named = [a for a in args if isinstance(a, torch.device)]
    return _on_device(named[0]) if named else None


def _run(func: Any, args: Any, kwargs: dict[str, Any], mode: Standin | None = None) -> Any:
    mode = mode or (_ACTIVE[-1] if _ACTIVE else None)
    name = func._schema.name.split("::")[1]
    tensors = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, torch.Tensor)]
    mine = [t for t in tensors if isinstance(t, DeviceTensor)]
    target = _target(name, args, kwargs)
    if not mine and not target:
        return func(*args, **kwargs)
    _check_mixing(name, args, tensors)
    if mode is not None:
        _count(mode, name, args, kwargs, target, mine)
    out = func(*tree_map(_bare, args), **_bare_kwargs(kwargs))
    if name == "_local_scalar_dense":
        return out
    first = args[0] if args else None
    if name.endswith("_") and isinstance(first, torch.Tensor) and isinstance(out, torch.Tensor):
        return first
    if isinstance(kwargs.get("out"), torch.Tensor):
        return kwargs["out"]
    if target is False:  # a copy to the host never shares memory
        return tree_map(lambda o: o.clone() if any(o is t.raw for t in mine) else o, out)
    known = {id(t.raw): t for t in mine}
    return tree_map(lambda o: _wrapped(o, known), out)


def _wrapped(value: Any, known: dict[int, DeviceTensor]) -> Any:
    if not isinstance(value, torch.Tensor) or isinstance(value, DeviceTensor):
        return value
    return known[id(value)] if id(value) in known else DeviceTensor(value)


def _bare(value: Any) -> Any:
    if isinstance(value, DeviceTensor):
        return value.raw
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _bare_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: False if k == "pin_memory" else tree_map(_bare, v) for k, v in kwargs.items()}


def _check_mixing(name: str, args: Any, tensors: list[torch.Tensor]) -> None:
    hosts = [t for t in tensors if not isinstance(t, DeviceTensor)]
    device = len(hosts) < len(tensors)
    mixed = device and any(t.dim() > 0 for t in hosts) and name not in MIXING
    if name.startswith(("index", "_index_put")) and device and isinstance(args[0], torch.Tensor):
        mixed = mixed or not isinstance(args[0], DeviceTensor)
    if mixed:
        shapes = [tuple(t.shape) for t in hosts]
        raise MixedDevices(f"{line()}: {name} of the device's tensors with the host's, of shapes {shapes}")


def _count(
    mode: Standin, name: str, args: Any, kwargs: dict[str, Any], target: bool | None, mine: list[DeviceTensor]
) -> None:
    waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
    to_host = (name in ("_to_copy", "to") and target is False) or (
        name == "copy_" and not isinstance(args[0], DeviceTensor)
    )
    boolean = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
        isinstance(t, torch.Tensor) and t.dtype in (torch.bool, torch.uint8) for t in args[1] or ()
    )
    lengths = name == "repeat_interleave" and kwargs.get("output_size") is None
    if name in READS or boolean or lengths or (to_host and mine and waits):
        mode.reads[f"{line()} {name}"] += 1
    to_device = (name in ("_to_copy", "to") and target and not mine) or (
        name == "copy_" and isinstance(args[0], DeviceTensor) and not isinstance(args[1], DeviceTensor)
    )
    if to_device and waits:
        mode.sends[f"{line()} {name}"] += 1


def _module() -> Any:
    class Module(backend_registration._DummyBackendModule):  # type: ignore[name-defined,misc]
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

        def synchronize(self, *_: Any) -> None: ...
        def get_rng_state(self, *_: Any) -> torch.Tensor:
            return torch.get_rng_state()

        def set_rng_state(self, *_: Any) -> None: ...
        def manual_seed(self, seed: int) -> None: ...

    return Module()


def register() -> Any:
    """Make torch know the device; once a process. Returns: what keeps its operators alive."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_module())
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None,
              memory_format: Any = None) -> Any:  # fmt: skip
        return DeviceTensor(torch.empty(size, dtype=dtype))

    def empty_strided(size: Any, stride: Any, dtype: Any = None, layout: Any = None, device: Any = None,
                      pin_memory: Any = None) -> Any:  # fmt: skip
        return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
        _bare(target).copy_(_bare(source))
        return target

    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    return library


@contextlib.contextmanager
def present() -> Iterator[Standin]:
    """Inside, `torch.device("standin")` can be computed on; yields what counts."""
    makers = {name: getattr(torch, name) for name in ("tensor", "as_tensor")}
    own = torch.Tensor.new_tensor
    swap = torch.__future__.get_swap_module_params_on_conversion()

    def made(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def on_device(data: Any, *args: Any, device: Any = None, **rest: Any) -> torch.Tensor:
            if device is not None and _on_device(device):
                return make(data, *args, **rest).to(NAME)
            return make(data, *args, device=device, **rest)

        return on_device

    def new_tensor(self: torch.Tensor, data: Any, **rest: Any) -> torch.Tensor:
        if self.device.type == NAME and "device" not in rest:
            return makers["tensor"](data, **{"dtype": self.dtype} | rest).to(NAME)
        return own(self, data, **rest)

    torch.__future__.set_swap_module_params_on_conversion(False)
    for name, make in makers.items():
        setattr(torch, name, made(make))
    torch.Tensor.new_tensor = new_tensor  # type: ignore[method-assign,assignment]
    try:
        with Standin() as mode:
            _ACTIVE.append(mode)
            yield mode
    finally:
        _ACTIVE.clear()
        torch.__future__.set_swap_module_params_on_conversion(swap)
        for name, make in makers.items():
            setattr(torch, name, make)
        torch.Tensor.new_tensor = own  # type: ignore[method-assign]
