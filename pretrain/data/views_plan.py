"""What the device needs to render a batch's views, worked out by the processes that decode: two tensors to send.

Everything whose shape depends on the draws is decided here, so that the device never has to be asked. Pixels are laid
out in tiles of equal length, so that views of both sizes go through the same operations; the tiles are sorted by when
a view's hue is turned, so that what comes before and after it acts on contiguous ranges (`views_device`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.data.views import Params, Views

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, Pillow's "L"
SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
CELLS = 1 << 28  # weights that exist at a time: 512 MiB in float16
SLOTS = 6  # three operations before the hue is turned, counted towards it, and three after
COLUMNS = 2 * SLOTS + 6  # of `tile`: per slot factor and use of the luma, then three hue offsets, gray, two spare


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Views of one size. views: how many, of `size` pixels. cells: where their columns' and rows' weights begin."""

    size: int
    views: int
    columns: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Parameters of B images' views, ready to be sent.

    Attributes:
        floats, ints: float32 and int64 [n], every array one after the other; where: {name: (start, shape)}.
        groups: the globals and the locals. tile: pixels of a tile. images: how many at a time, by memory. cells: the
            weights of so many. taps: pixels a resized one comes from, at most.
        slots: per slot the ranges of tiles and of rows it acts on. jittered: tiles whose hue is turned.
    """

    floats: Tensor
    ints: Tensor
    where: dict[str, tuple[int, tuple[int, ...]]]
    groups: tuple[Group, ...]
    tile: int
    images: int
    cells: int
    taps: int
    slots: tuple[tuple[int, int, int, int], ...]
    jittered: int

    def array(self, name: str) -> Tensor:
        """The array of that name, a view."""
        start, shape = self.where[name]
        source = self.ints if name.startswith("i_") else self.floats
        return source[start : start + math.prod(shape)].view(shape)

    def has(self, name: str) -> bool:
        """Whether there is anything in that array."""
        return math.prod(self.where[name][1]) > 0

    def pin_memory(self) -> Plan:
        """The same in page-locked memory."""
        return replace(self, floats=self.floats.pin_memory(), ints=self.ints.pin_memory())

    def to(self, device: torch.device) -> Plan:
        """The same on the device; two copies."""
        floats, ints = (t.to(device, non_blocking=True) for t in (self.floats, self.ints))
        return replace(self, floats=floats, ints=ints)


def plan(params: Params, views: Views, height: int, width: int) -> Plan:
    """The plan for B images in the upper left corners of a canvas [B, 3, height, width].

    Args:
        params: of B images, [B, V, ...].
    """
    count = len(params.box)
    arrays: dict[str, np.ndarray] = {}
    sizes = [(views.global_size, views.num_global), (views.local_size, views.num_local)]
    positions = sum(size * number for size, number in sizes)
    images = max(1, min(count, CELLS // (positions * (height + width))))
    groups, cells = _regions(sizes, images, height, width)
    taps = _resizing(arrays, params, views, groups, images, height, width, cells)
    tile, slots, jittered = _colours(arrays, params, groups, count)
    for at, group in enumerate(groups):
        _blurring(arrays, params, group, at, first=0 if at == 0 else views.num_global)
    where: dict[str, tuple[int, tuple[int, ...]]] = {}
    ends = {True: 0, False: 0}
    for name, array in arrays.items():
        whole = name.startswith("i_")
        where[name] = (ends[whole], array.shape)
        ends[whole] += array.size
    packed: dict[bool, Any] = {}
    for whole, dtype in ((True, np.int64), (False, np.float32)):
        parts = [a.astype(dtype, copy=False).ravel() for n, a in arrays.items() if n.startswith("i_") == whole]
        packed[whole] = torch.from_numpy(np.concatenate(parts))
    return Plan(
        floats=packed[False],
        ints=packed[True],
        where=where,
        groups=groups,
        tile=tile,
        images=images,
        cells=cells,
        taps=taps,
        slots=slots,
        jittered=jittered,
    )


def _regions(sizes: list[tuple[int, int]], images: int, height: int, width: int) -> tuple[tuple[Group, ...], int]:
    """Where each group's weights lie for `images` images: [images, views, size, side] of columns, then of rows."""
    groups, end = [], 0
    for size, number in sizes:
        if number:
            columns, rows = end, end + images * number * size * width
            end = rows + images * number * size * height
            groups.append(Group(size=size, views=number, columns=columns, rows=rows))
    return tuple(groups), end


def _resizing(
    arrays: dict[str, np.ndarray],
    params: Params,
    views: Views,
    groups: tuple[Group, ...],
    images: int,
    height: int,
    width: int,
    cells: int,
) -> int:
    """Of each pixel of a resized side: its centre, its first and last tap, and the cell of the first. Returns: taps.

    Source: Pillow's Resample.c: support times the scale where it shrinks; taps between round(centre - support) and
    round(centre + support), within the box.
    """
    box, flip = params.box.numpy().astype(np.float64), params.flip.numpy()
    count = len(box)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("centre", "narrow", "last", "cell")}
    most, first = 1, 0
    for group in groups:
        own = slice(first, first + group.views)
        first += group.views
        for side, (start, length, full, base) in enumerate(((1, 3, width, group.columns), (0, 2, height, group.rows))):
            begin, extent = box[:, own, start, None], box[:, own, length, None]  # [B, v, 1]
            at = np.broadcast_to(np.arange(group.size), (count, group.views, group.size))
            if side == 0:
                at = np.where(flip[:, own, None], group.size - 1 - at, at)
            scale = extent / group.size
            wide = np.maximum(scale, 1.0)
            centre = begin + (at + 0.5) * scale
            support = SUPPORT[views.interpolation] * wide
            low = np.maximum(np.floor(centre - support + 0.5), begin)
            high = np.minimum(np.floor(centre + support + 0.5) - 1, begin + extent - 1)
            most = max(most, int((high - low).max()) + 1)
            row = np.arange(count)[:, None] % images * group.views + np.arange(group.views)  # [B, v]
            cell = base + (row[:, :, None] * group.size + np.arange(group.size)) * full + low
            # Relative to the first tap: the centre stays exact in float32 wherever the box lies.
            values = {"centre": centre - 0.5 - low, "narrow": 1 / wide, "last": high - low, "cell": cell}
            for name, value in values.items():
                parts[name].append(np.broadcast_to(value, at.shape).reshape(count, -1))
    for name in ("centre", "narrow", "last"):
        arrays[name] = np.concatenate(parts[name], axis=1)
    arrays["i_cell"] = np.concatenate(parts["cell"], axis=1)
    return most


def _colours(
    arrays: dict[str, np.ndarray], params: Params, groups: tuple[Group, ...], count: int
) -> tuple[int, tuple[tuple[int, int, int, int], ...], int]:
    """Tiles sorted by when the hue is turned, and what is done to each. Returns: tile, slots, jittered tiles."""
    tile = math.gcd(*(group.size**2 for group in groups))
    rows = np.concatenate([np.full(g.views * count, g.size**2 // tile) for g in groups])  # tiles of each row [R]
    names = ("jitter", "factors", "order", "gray")
    jitter, factors, order, gray = (_by_view(getattr(params, name).numpy()) for name in names)
    turned = np.where(jitter, np.argmax(order == HUE, axis=1), 4)  # [R]: when the hue is turned; 4: not at all
    by_time = np.argsort(turned, kind="stable")
    start = np.cumsum(rows) - rows
    owner = np.repeat(np.arange(len(rows)), rows[by_time])  # of each sorted tile, its sorted row
    sorted_start = np.cumsum(rows[by_time]) - rows[by_time]
    tiles = np.repeat(start[by_time] - sorted_start, rows[by_time]) + np.arange(rows.sum())
    back = np.empty_like(tiles)
    back[tiles] = np.arange(len(tiles))
    arrays["i_owner"], arrays["i_sorted"], arrays["i_back"] = owner, tiles, back

    table = np.zeros((len(rows), COLUMNS))
    contrast = np.zeros((len(rows), SLOTS))
    for slot in range(SLOTS):
        step = turned + (slot - 3 if slot < 3 else slot - 2)  # the position in the order that falls into this slot
        which = order[np.arange(len(rows)), np.clip(step, 0, 3)]
        acts = jitter & (step >= 0) & (step <= 3)
        table[:, 2 * slot] = np.where(acts, factors[np.arange(len(rows)), which], 1.0)
        table[:, 2 * slot + 1] = acts & (which == SATURATION)
        contrast[:, slot] = acts & (which == CONTRAST)
    for channel, offset in enumerate((5, 3, 1)):
        table[:, 2 * SLOTS + channel] = offset + 6 * factors[:, HUE]
    table[:, 2 * SLOTS + 3] = ~gray
    arrays["table"], arrays["luma"] = table[by_time], np.array([LUMA])
    most = rows.max()
    members = sorted_start[:, None] + np.minimum(np.arange(most), rows[by_time][:, None] - 1)
    real = np.arange(most) < rows[by_time][:, None]
    arrays["i_members"] = members
    arrays["shares"] = contrast[by_time].T[:, :, None] * real / rows[by_time][:, None]  # [slot, R, most]
    return tile, _slots(turned[by_time], rows[by_time]), int(rows[by_time][turned[by_time] < 4].sum())


def _slots(turned: np.ndarray, rows: np.ndarray) -> tuple[tuple[int, int, int, int], ...]:
    """(first tile, last, first row, last) of each slot: rows turned late have more to do before, early ones after."""
    ends = np.concatenate([[0], np.cumsum(rows)])
    found = []
    for slot in range(SLOTS):
        low, high = (3 - slot, 4) if slot < 3 else (0, 6 - slot)
        first, last = int(np.searchsorted(turned, low)), int(np.searchsorted(turned, high))
        found.append((int(ends[first]), int(ends[last]), first, last))
    return tuple(found)


def _blurring(arrays: dict[str, np.ndarray], params: Params, group: Group, at: int, *, first: int) -> None:
    """Rows to blur and to solarize, the kernels, and which of a kernel's numbers stands where in the weights.

    A kernel's numbers are its taps from the middle outwards, 0, and the sums of the taps beyond an edge, whose pixels
    are replicated, 0.
    """
    own = slice(first, first + group.views)
    blur, radius, solarize = (
        _by_view(getattr(params, name).numpy()[:, own]) for name in ("blur", "radius", "solarize")
    )
    chosen = np.flatnonzero(blur) if group.size > 1 else np.zeros(0, dtype=np.int64)
    arrays[f"i_blurred{at}"], arrays[f"i_solarized{at}"] = chosen, np.flatnonzero(solarize)
    reach = 3 * math.ceil(radius[chosen].max()) + 1 if len(chosen) else 0
    offset = np.arange(reach + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        kernel = np.exp(-0.5 * (offset / radius[chosen][:, None]) ** 2)
    kernel[:, 0] = 1.0  # a radius of 0 leaves the middle alone
    kernel /= 2 * kernel.sum(axis=1, keepdims=True) - kernel[:, :1]
    beyond = kernel[:, ::-1].cumsum(axis=1)[:, ::-1]
    zero = np.zeros((len(chosen), 1))
    arrays[f"kernels{at}"] = np.concatenate([kernel, zero, beyond, zero], axis=1)
    if len(chosen):
        distance = np.abs(np.arange(group.size)[:, None] - np.arange(group.size)).clip(max=reach + 1)
        distance[:, [0, -1]] += reach + 2
        arrays[f"i_toeplitz{at}"] = distance
    else:
        arrays[f"i_toeplitz{at}"] = np.zeros(0, dtype=np.int64)


def _by_view(x: np.ndarray) -> np.ndarray:
    """[B, V, ...] -> [V * B, ...]."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
