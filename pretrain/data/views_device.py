"""Multi-crop on the device: the parameters of `views`, applied to a batch in a fixed number of passes.

Resizing and blurring are separable, so each is one weight matrix per side and view, and a batched product. Colours are
changed on all views at once, in each view's own order. Nothing is read back: shapes follow from the plan, which is made
where images are decoded (`views_plan`). Values are 0 to 255, float16 on a GPU (11 bits) and float32 elsewhere; they are
rounded to 8 bits after resizing, where Pillow rounds after each step, so results differ by a few levels.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from evaltk.sending import sent
from pretrain import card
from pretrain.data.views import SOLARIZE_THRESHOLD, Params, Views
from pretrain.data.views_plan import SLOTS, Group, Plan, plan

SMALLEST_SPREAD = 2.0**-7  # of a colour's channels in levels, below which it has no hue


def render(canvas: Tensor, params: Params, views: Views) -> list[Tensor]:
    """The views of B images, float32 [B, 3, size, size] in [0, 1], one tensor per view.

    Args:
        canvas: uint8 [B, 3, H, W], each image in its upper left corner.
        params: of B images, [B, V, ...].
    """
    made = plan(params, views, *canvas.shape[-2:]).to(canvas.device)
    return render_planned(canvas, made, views, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def render_planned(
    canvas: Tensor, made: Plan, views: Views, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> list[Tensor]:
    """As `render`, from a plan on the canvas's device, less the mean and divided by std.

    Views of one size are neighbours in memory.
    """
    dtype = torch.float16 if card.is_card(canvas.device) else torch.float32
    image = canvas.to(dtype)
    pixels = torch.empty(3, len(made.array("i_owner")) * made.tile, dtype=dtype, device=canvas.device)
    parts = _parts(made, len(canvas))
    for first in range(0, len(canvas), made.images):
        _resize(image[first : first + made.images], first, made, pixels, parts, views.interpolation)
    _clip_to_bytes(pixels)
    pixels = _colours(pixels, made)
    shift, scale = sent([[255 * m for m in mean], [255 * d for d in std]], canvas.device).view(2, 3, 1, 1)
    out: list[Tensor] = []
    for at, (group, (start, stop)) in enumerate(zip(made.groups, parts, strict=True)):
        part = pixels[:, start:stop].view(3, -1, group.size, group.size)  # [3, v * B, size, size]
        _blur(part, made, at)
        _solarize(part, made, at)
        normal = torch.empty(part.shape[1], 3, group.size, group.size, device=canvas.device)
        out += torch.sub(part.transpose(0, 1), shift, out=normal).div_(scale).chunk(group.views)
    return out


def _parts(made: Plan, count: int) -> list[tuple[int, int]]:
    """Where each group's pixels begin and end."""
    ends = [0]
    for group in made.groups:
        ends.append(ends[-1] + group.views * count * group.size**2)
    return list(itertools.pairwise(ends))


def _clip_to_bytes(x: Tensor) -> Tensor:
    return x.clamp_(0, 255).round_()


def _resize(
    image: Tensor, first: int, made: Plan, pixels: Tensor, parts: list[tuple[int, int]], interpolation: str
) -> None:
    """Crop, flip and resize images [b, 3, H, W], which are those from `first` on, into `pixels`: columns, then rows."""
    count, _, height, width = image.shape
    weights = resize_weights(made, first, count, interpolation, image.dtype)
    for group, (start, stop) in zip(made.groups, parts, strict=True):
        v, s = group.views, group.size
        x = _block(weights, group.columns, made.images, group, width)[:count]
        y = _block(weights, group.rows, made.images, group, height)[:count]
        # [b, v s, W] @ [b, W, 3 H]; Pillow clips and rounds to 8 bits between the passes, else edges overshoot.
        narrow = _clip_to_bytes(x.view(count, v * s, width) @ image.view(count, 3 * height, width).transpose(1, 2))
        both = narrow.view(count * v, s * 3, height) @ y.view(count * v, s, height).transpose(1, 2)  # [b v, x 3, y]
        target = pixels[:, start:stop].view(3, v, -1, s, s)[:, :, first : first + count]  # [3, v, b, y, x]
        target.copy_(both.view(count, v, s, 3, s).permute(3, 1, 0, 4, 2))


def _block(weights: Tensor, start: int, images: int, group: Group, full: int) -> Tensor:
    """Weights [images, v, size, full] of one side."""
    shape = (images, group.views, group.size, full)
    return weights[start : start + images * group.views * group.size * full].view(shape)


def resize_weights(made: Plan, first: int, count: int, interpolation: str, dtype: torch.dtype) -> Tensor:
    """All weights of `count` images from `first` on, as laid out in the plan: antialiased as Pillow's.

    Source: Pillow's Resample.c: a = -0.5 for bicubic.
    """
    own = slice(first, first + count)
    centre, narrow, last = (made.array(name)[own, :, None] for name in ("centre", "narrow", "last"))  # [b, p, 1]
    tap = torch.arange(made.taps, device=centre.device)
    distance = (tap - centre).mul_(narrow).abs_()
    inside = tap <= last
    w = _cubic(distance) if interpolation == "bicubic" else (1 - distance).clamp_(min=0)
    w.mul_(inside)
    w.div_(w.sum(dim=2, keepdim=True))
    weights = torch.zeros(made.cells + 1, dtype=dtype, device=centre.device)
    # Taps beyond the last would spill into the next row: they go to a cell of their own.
    cell = torch.where(inside, made.array("i_cell")[own, :, None] + tap, made.cells)
    return weights.scatter_(0, cell.flatten(), w.to(dtype).flatten())[: made.cells]


def _cubic(d: Tensor) -> Tensor:
    a = -0.5
    near = ((a + 2) * d).sub_(a + 3).mul_(d).mul_(d).add_(1)
    far = (a * d).sub_(5 * a).mul_(d).add_(8 * a).mul_(d).sub_(4 * a)
    return torch.where(d < 1, near, far).mul_(d < 2)


def _colours(pixels: Tensor, made: Plan) -> Tensor:
    """Jitter and gray of all views; pixels [3, n], in the plan's tiles."""
    tiles = pixels.view(3, -1, made.tile).index_select(1, made.array("i_sorted"))  # [3, T, tile]
    owner = made.array("i_owner")
    table, shares, luma = (made.array(name).to(pixels.dtype) for name in ("table", "shares", "luma"))
    table = table.index_select(0, owner)  # [T, columns]
    means, levels = pixels.new_empty(len(owner)), pixels.new_empty(len(made.array("i_members")))
    for slot in range(SLOTS):
        if slot == SLOTS // 2 and made.jittered:
            turn = table[: made.jittered, 2 * SLOTS : 2 * SLOTS + 3].T.unsqueeze(2)  # [3, T', 1]
            _turn_hue(tiles[:, : made.jittered], turn)
        start, stop, row, last_row = made.slots[slot]
        if start == stop:
            continue
        part, mine = tiles[:, start:stop], table[start:stop]
        gray = _luma(part, luma)
        torch.mean(gray, 1, out=means[start:stop])
        members = means[made.array("i_members")[row:last_row]].unsqueeze(1)  # [rows, 1, m]
        torch.bmm(members, shares[slot, row:last_row].unsqueeze(2), out=levels[row:last_row].view(-1, 1, 1))
        level = levels.index_select(0, owner[start:stop]).unsqueeze(1)
        # Brightness goes towards 0, contrast towards the mean luma, saturation towards the pixel's own.
        towards = torch.addcmul(level, gray, mine[:, 2 * slot + 1, None])
        torch.lerp(towards, part, mine[:, 2 * slot, None], out=part).clamp_(0, 255)
    torch.lerp(_luma(tiles, luma), tiles, table[:, 2 * SLOTS + 3, None], out=tiles)
    return tiles.index_select(1, made.array("i_back")).view(3, -1)


def _luma(tiles: Tensor, weights: Tensor) -> Tensor:
    """[T, tile] of tiles [3, T, tile]; weights [1, 3]."""
    return (weights @ tiles.reshape(3, -1)).view(tiles.shape[1:])


def _turn_hue(tiles: Tensor, offsets: Tensor) -> None:
    """Rotate hues in place: tiles [3, T, tile], offsets [3, T, 1] = (5, 3, 1) + 6 x shift, in sixths of a turn.

    A channel is V - (V - min) clamp(min(k, 4 - k), 0, 1) with k = its offset plus the hue, modulo 6.
    """
    red, green, blue = tiles.unbind(0)
    high, low = tiles.amax(dim=0), tiles.amin(dim=0)
    spread = high - low
    safe = spread.clamp(min=SMALLEST_SPREAD)
    other = torch.where(
        green == high, torch.sub(blue, red).add_(safe, alpha=2), torch.sub(red, green).add_(safe, alpha=4)
    )
    hue = torch.where(red == high, green - blue, other).div_(safe)
    k = (hue + offsets).remainder_(6)
    torch.addcmul(high, spread, torch.minimum(k, 4 - k).clamp_(0, 1), value=-1, out=tiles)


def _blur(part: Tensor, made: Plan, at: int) -> None:
    """Blur, in place, those of part [3, rows, s, s] that are blurred; edge pixels are replicated."""
    if not made.has(f"i_blurred{at}"):
        return
    rows, size = made.array(f"i_blurred{at}"), part.shape[-1]
    kernels = made.array(f"kernels{at}").to(part.dtype)
    weights = kernels.index_select(1, made.array(f"i_toeplitz{at}").flatten()).view(-1, size, size)
    chosen = part.permute(1, 2, 0, 3).index_select(0, rows).contiguous()  # [n, s, 3, s]
    chosen = torch.bmm(chosen.view(-1, size * 3, size), weights.transpose(1, 2))
    chosen = torch.bmm(weights, chosen.view(-1, size, 3 * size))
    part.permute(1, 2, 0, 3).index_copy_(0, rows, chosen.view(-1, size, 3, size))


def _solarize(part: Tensor, made: Plan, at: int) -> None:
    """Invert, in place, what is bright in those of part [3, rows, s, s] that are solarized."""
    if made.has(f"i_solarized{at}"):
        rows = made.array(f"i_solarized{at}")
        chosen = part.index_select(1, rows)
        part.index_copy_(1, rows, torch.where(chosen >= SOLARIZE_THRESHOLD, 255 - chosen, chosen))
