"""Counts what a piece of torch code would ask of a GPU, on fake tensors: shapes only, no memory, seconds of CPU.

Every operator is one launch. Its time is the largest of bytes over bandwidth, operations over the rate of their dtype,
and the shortest kernel; the whole takes the sum of these, or the host's cost of all launches where that is more.
"""

from __future__ import annotations

import collections
import math
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

OURS = ("/pretrain/", "/evaltk/", "/protocols/")
READS = ("_local_scalar_dense", "is_nonzero", "equal")  # a number on the host: it waits for the device
SHAPED_BY_DATA = ("nonzero", "masked_select", "unique_consecutive", "_unique2", "bincount")
OVERWRITE = (
    "copy_",
    "zero_",
    "fill_",
    "bernoulli_",
    "random_",
    "uniform_",
    "normal_",
    "_foreach_copy_",
    "_foreach_zero_",
)
# Views and bookkeeping, which launch nothing. A reshape that copies shows up as `clone` below it.
FREE = """
view reshape _unsafe_view t transpose permute expand slice select unsqueeze squeeze detach alias split chunk unbind
as_strided diagonal narrow lift_fresh empty empty_like empty_strided new_empty new_empty_strided split_with_sizes unfold
device is_pinned _has_compatible_shallow_copy_type sym_size prim_layout view_as_real result_type
""".split()  # noqa: SIM905


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a card reaches, not what its sheet says: bytes/s, operations/s by dtype, seconds a launch and a kernel."""

    name: str = "H100 SXM"
    bandwidth: float = 2.6e12
    half: float = 600e12
    tf32: float = 300e12
    single: float = 50e12
    host: float = 6.0e-6  # of the host, a launch
    kernel: float = 2.5e-6  # the shortest kernel

    def rate(self, dtype: torch.dtype) -> float:
        """Operations a second of matrix products in `dtype`."""
        if dtype in (torch.bfloat16, torch.float16):
            return self.half
        tf32 = torch.get_float32_matmul_precision() != "highest"
        return self.tf32 if dtype == torch.float32 and tf32 else self.single


def line() -> str:
    """file:line of the innermost frame of the project."""
    for frame in reversed(traceback.extract_stack()):
        if any(part in frame.filename for part in OURS):
            return f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}"
    return "?"


class Count(TorchDispatchMode):
    """Inside, operators are counted. Values read back are made up: 1 for a number, True for a truth.

    Attributes:
        launches; bytes, read and written; flops by dtype; time by (operator, line), seconds on the device;
        operators by (operator, line); syncs by line.
    """

    def __init__(self, card: Card | None = None) -> None:
        super().__init__()
        self.card = card or Card()
        self.launches, self.bytes = 0, 0
        self.flops: collections.Counter[str] = collections.Counter()
        self.time: collections.Counter[tuple[str, str]] = collections.Counter()
        self.operators: collections.Counter[tuple[str, str]] = collections.Counter()
        self.moved: collections.Counter[tuple[str, str]] = collections.Counter()
        self.products: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self.syncs: collections.Counter[str] = collections.Counter()
        self._last_read = (-1, "")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        tensors = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, torch.Tensor)]
        if name in READS:
            self._read(name)
            number = name == "_local_scalar_dense" and tensors[0].dtype != torch.bool
            return (1.0 if tensors[0].dtype.is_floating_point else 1) if number else True
        if name in SHAPED_BY_DATA or _masked(name, tensors):
            self._read(f"{name}, whose shape depends on the data")
            return self._made_up(name, args, tensors)
        out = func(*args, **kwargs)
        self._count(func, name, args, kwargs, tensors, out)
        return out

    def _read(self, what: str) -> None:
        frames = [f.filename for f in traceback.extract_stack()[-16:]]
        if not any(
            "/torch/optim/" in f for f in frames
        ):  # AdamW's counters of steps are the host's where it is not fused
            read = (self.launches, f"{line()} {what}")
            # Tensor.tolist asks for one number after the other here, on a GPU for all of them once.
            if read != self._last_read:
                self.syncs[read[1]] += 1
            self._last_read = read

    @staticmethod
    def _made_up(name: str, args: Any, tensors: list[torch.Tensor]) -> Any:
        """An answer of some likely size: a quarter of the rows."""
        if name == "index":
            mask = next(t for t in tensors[1:] if t.dtype == torch.bool)
            rows = args[0].reshape(mask.numel(), *args[0].shape[mask.ndim :])
            return rows[: max(1, mask.numel() // 4)].clone()
        if name.startswith("index_put"):
            return args[0] if name.endswith("_") else args[0].clone()
        some = max(1, tensors[0].numel() // 4)
        return (
            torch.zeros(some, tensors[0].ndim, dtype=torch.long) if name == "nonzero" else tensors[0].flatten()[:some]
        )

    def _count(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[torch.Tensor], out: Any) -> None:
        outs = [o for o in tree_flatten(out)[0] if isinstance(o, torch.Tensor)]
        if name.rstrip("_") in FREE or not (outs or tensors):
            return
        self.launches += 1
        ours = {id(t) for t in tensors}
        moved = sum(_bytes(t) for t in tensors) + sum(_bytes(o) for o in outs if id(o) not in ours)
        if name.endswith("_") and name not in OVERWRITE:  # what they write they have read
            moved += _written(args)
        dtype = (tensors or outs)[0].dtype
        operations = 0
        if func._overloadpacket in flop_registry:
            operations = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
            self.flops[str(dtype).removeprefix("torch.")] += operations
            self.products[name, str(dtype).removeprefix("torch."), line()] += operations
        at = (name, line())
        card = self.card
        self.time[at] += max(moved / card.bandwidth, operations / card.rate(dtype), card.kernel)
        self.operators[at] += 1
        self.moved[at] += moved
        self.bytes += moved

    @property
    def seconds(self) -> float:
        """Of the whole: the device's time, or the host's where launches bound it."""
        return max(sum(self.time.values()), self.launches * self.card.host)


def _masked(name: str, tensors: list[torch.Tensor]) -> bool:
    return name.startswith("index") and any(t.dtype == torch.bool for t in tensors[1:]) and name in (
        "index", "index_put", "index_put_", "_index_put_impl_")  # fmt: skip


def _written(args: Any) -> int:
    first = [t for t in tree_flatten(args[0])[0] if isinstance(t, torch.Tensor)] if args else []
    return sum(_bytes(t) for t in first)


def _bytes(tensor: torch.Tensor) -> int:
    """Of its memory; what is expanded is stored once."""
    stored = (n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(stored) * tensor.element_size() if tensor.numel() else 0
