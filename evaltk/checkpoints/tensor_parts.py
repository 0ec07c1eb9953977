"""Tensors of a pickle that torch.save or TorchScript wrote: storages, dtypes and the calls that put them together."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from evaltk.checkpoints.inert_values import Call, Name, Thing, members, text

# Pickled names of storages -> dtypes; those of quantised tensors are left out.
STORAGES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
QUANTISED = ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage")
DTYPE = re.compile(r"torch\.((?:b?float|u?int|complex|bfloat)\d+\w*|bool)")
MAX_DIMS = 64
MAX_VIEW = 1 << 34  # bytes of a tensor that is larger than its storage: a few numbers repeated without end are a bomb


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Bytes of a file, and what numbers they are; `dtype` is None for quantised ones."""

    data: torch.UntypedStorage
    dtype: torch.dtype | None


def storage_kind(kind: object) -> tuple[torch.dtype | None, int]:
    """(dtype, bytes of a number) of a storage's pickled class. Raises: pickle.UnpicklingError: no storage."""
    name = kind.path.rpartition(".")[2] if isinstance(kind, Name) and kind.path.startswith("torch.") else ""
    if name in QUANTISED:
        return None, 4 if name == "QInt32Storage" else 1
    if name not in STORAGES:
        raise pickle.UnpicklingError(f"a storage of the kind {kind.path if isinstance(kind, Name) else '?'}"[:80])
    return STORAGES[name], STORAGES[name].itemsize


def whole(value: object) -> int:
    """`value` where it is a whole number from 0. Raises: pickle.UnpicklingError."""
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise pickle.UnpicklingError("a size that is no whole number, or too large")
    return value


def _dtype(name: object) -> torch.dtype:
    found = DTYPE.fullmatch(name.path) if isinstance(name, Name) else None
    dtype = vars(torch).get(found[1]) if found else None
    if not isinstance(dtype, torch.dtype):
        raise pickle.UnpicklingError("a tensor of an unknown dtype")
    return dtype


def _view(storage: object, offset: object, size: object, stride: object, dtype: torch.dtype | None = None) -> object:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError(f"a tensor of a {type(storage).__name__}")
    dtype = dtype or storage.dtype
    if dtype is None:
        return Thing("torch._utils._rebuild_qtensor")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or not len(size) == len(stride) <= MAX_DIMS:
        raise pickle.UnpicklingError("a tensor without a shape")
    sizes, strides, first = [whole(n) for n in size], [whole(n) for n in stride], whole(offset)
    count = 1
    for n in sizes:
        count *= n
    last = first + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    held = storage.data.nbytes()
    if count and (last + 1) * dtype.itemsize > held:
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(sizes)} in {held} bytes")
    if count * dtype.itemsize > max(held, MAX_VIEW):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(sizes)} made of {held} bytes")
    return torch.empty(0, dtype=dtype).set_(storage.data, first, sizes, strides)


def _v2(storage: object, offset: object, size: object, stride: object, *rest: Any) -> object:
    return _flags(_view(storage, offset, size, stride), rest[2] if len(rest) > 2 else None)


def _v3(storage: object, offset: object, size: object, stride: object, *rest: Any) -> object:
    if len(rest) < 3:
        raise pickle.UnpicklingError("a tensor without a dtype")
    return _flags(_view(storage, offset, size, stride, _dtype(rest[2])), rest[3] if len(rest) > 3 else None)


def _flags(tensor: object, flags: object) -> object:
    """Conjugation and sign that torch put off."""
    if not isinstance(flags, dict) or not isinstance(tensor, torch.Tensor):
        return tensor
    signed = torch._neg_view(tensor) if flags.get("neg") else tensor
    return signed.conj() if flags.get("conj") else signed


def _first(value: object, *_: object) -> object:
    return value


def _from_array(array: object, *rest: object) -> object:
    """A tensor of another device that was saved as numpy's array."""
    state = array.state if isinstance(array, Thing) else None
    if not isinstance(state, tuple) or len(state) != 5 or not rest or not isinstance(state[1], tuple):
        raise pickle.UnpicklingError("a tensor of no array")
    _, shape, kind, fortran, data = state
    values = kind.values(data).reshape(shape, order="F" if fortran else "C")
    if values.dtype.kind not in "iufb":
        raise pickle.UnpicklingError("a tensor of no numbers")
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=True)).to(_dtype(rest[0]))


def calls() -> dict[str, Call]:
    """What a pickle with tensors may call, beside `inert_pickle.PLAIN`."""
    table: dict[str, Call] = {
        "torch._utils._rebuild_tensor": _view,
        "torch._utils._rebuild_tensor_v2": _v2,
        "torch._utils._rebuild_tensor_v3": _v3,
        "torch._utils._rebuild_parameter": _first,
        "torch._utils._rebuild_parameter_with_state": _first,
        "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
        "torch._utils._rebuild_device_tensor_from_numpy": _from_array,
        "torch._utils._rebuild_xla_tensor": _from_array,
        "torch.nn.parameter.Parameter": lambda *args: args[0] if args else Thing("torch.nn.parameter.Parameter"),
        "torch.Size": lambda *args: tuple(members(*args)),
        "torch.serialization._get_layout": text,
    }

    def from_type(function: object, kind: object, args: object, *_: object) -> object:
        """A tensor of a subclass, or with attributes, as the tensor in it."""
        if isinstance(function, Name) and isinstance(args, tuple) and (known := table.get(function.path)):
            return known(*args)
        return Thing(function.path if isinstance(function, Name) else "?", args if isinstance(args, tuple) else ())

    table["torch._tensor._rebuild_from_type_v2"] = from_type
    table["torch._tensor._rebuild_from_type"] = from_type
    return table
