"""Multi-crop on the device: the parameters of `views`, applied to batches of images by matrix products.

Resizing and blurring are separable, so each is one weight matrix per side and image: out = Y image X^T. Colours are
float32 after the resize, where Pillow rounds to 8 bits after each step; results differ by a few levels at most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.data.views import SOLARIZE_THRESHOLD, Params, Views, sizes

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, Pillow's "L"
SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}


def render(canvas: Tensor, params: Params, views: Views) -> list[Tensor]:
    """The views of B images, float32 [B, 3, size, size] in [0, 1], one tensor per view.

    Args:
        canvas: uint8 [B, 3, H, W], each image in its upper left corner.
        params: of B images, [B, V, ...].
    """
    device = canvas.device
    image = canvas.float().div_(255)
    out = []
    for v, size in enumerate(sizes(views)):
        p = {name: getattr(params, name)[:, v].to(device) for name in Params.__slots__}
        top, left, height, width = p["box"].float().unbind(1)
        y = resize_weights(top, height, size, image.shape[2], views.interpolation)
        x = resize_weights(left, width, size, image.shape[3], views.interpolation)
        x = torch.where(p["flip"][:, None, None], x.flip(1), x)
        # Pillow clips and rounds to 8 bits after each pass, rows first; without that, edges overshoot.
        view = _as_bytes(y.unsqueeze(1) @ _as_bytes(image @ x.unsqueeze(1).transpose(2, 3)))
        view = _jitter(view, p)
        view = torch.where(_column(p["gray"]), _luma(view).expand_as(view), view)
        blur = blur_weights(p["radius"].float(), size)
        identity = torch.eye(size, device=device).expand_as(blur)
        weights = torch.where(p["blur"][:, None, None], blur, identity)
        if bool(params.blur[:, v].any()):
            view = _both_sides(view, weights, weights)
        flipped = torch.where(view >= SOLARIZE_THRESHOLD / 255, 1 - view, view)
        out.append(torch.where(_column(p["solarize"]), flipped, view))
    return out


def _column(flags: Tensor) -> Tensor:
    return flags.view(-1, 1, 1, 1)


def _as_bytes(x: Tensor) -> Tensor:
    return x.clamp(0, 1).mul_(255).round_().div_(255)


def _both_sides(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Y [B, h, H] image [B, 3, H, W] X^T [B, W, w] -> [B, 3, h, w]."""
    return y.unsqueeze(1) @ image @ x.unsqueeze(1).transpose(2, 3)


def resize_weights(start: Tensor, length: Tensor, size: int, full: int, interpolation: str) -> Tensor:
    """Weights [B, size, full] that resize pixels start .. start + length to `size`, antialiased as Pillow does.

    Args:
        start, length: [B], in pixels; taps outside the box are left out, as for an image cropped first.
        full: pixels along this side of the canvas.

    Source: Pillow's Resample.c: a = -0.5 for bicubic, support times the scale where it shrinks.
    """
    scale = (length / size).view(-1, 1, 1)
    wide = scale.clamp(min=1)
    centre = start.view(-1, 1, 1) + (torch.arange(size, device=start.device).view(1, -1, 1) + 0.5) * scale
    tap = torch.arange(full, device=start.device).view(1, 1, -1) + 0.5
    distance = (tap - centre).abs() / wide
    w = _cubic(distance) if interpolation == "bicubic" else (1 - distance).clamp(min=0)
    inside = (tap > start.view(-1, 1, 1)) & (tap < (start + length).view(-1, 1, 1))
    # Pillow keeps the taps between round(centre - support) and round(centre + support).
    support = SUPPORT[interpolation] * wide
    inside = inside & (tap > torch.floor(centre - support + 0.5)) & (tap < torch.floor(centre + support + 0.5))
    w = w * inside
    return w / w.sum(dim=2, keepdim=True)


def _cubic(d: Tensor) -> Tensor:
    a = -0.5
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    return torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def blur_weights(radius: Tensor, size: int) -> Tensor:
    """Gaussian weights [B, size, size] of standard deviation `radius` [B] pixels; edge pixels are replicated."""
    reach = 3 * int(radius.max().ceil()) + 1
    offset = torch.arange(-reach, reach + 1, device=radius.device)
    kernel = torch.exp(-0.5 * (offset / radius.view(-1, 1)) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # [B, taps]
    row = torch.arange(size, device=radius.device)
    column = (row.view(-1, 1) + offset).clamp(0, size - 1)  # [size, taps]
    weights = torch.zeros(len(radius), size, size, device=radius.device)
    return weights.scatter_add_(
        2, column.expand(len(radius), -1, -1), kernel.unsqueeze(1).expand(-1, size, -1).contiguous()
    )


def _luma(view: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=view.device).view(1, 3, 1, 1)
    return (view * weights).sum(dim=1, keepdim=True)


def _jitter(view: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Brightness, contrast, saturation and hue, in each image's own order."""
    for slot in range(4):
        which = p["order"][:, slot]
        factor = p["factors"].float().gather(1, which[:, None])
        for op, adjust in enumerate((_brightness, _contrast, _saturation, _hue)):
            rows = (p["jitter"] & (which == op)).nonzero().flatten()
            if len(rows):
                view = view.index_copy(0, rows, adjust(view[rows], factor[rows].view(-1, 1, 1, 1)).clamp_(0, 1))
    return view


def _brightness(view: Tensor, factor: Tensor) -> Tensor:
    return view * factor


def _contrast(view: Tensor, factor: Tensor) -> Tensor:
    mean = _luma(view).mean(dim=(1, 2, 3), keepdim=True)
    return mean + (view - mean) * factor


def _saturation(view: Tensor, factor: Tensor) -> Tensor:
    gray = _luma(view)
    return gray + (view - gray) * factor


def _hue(view: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue by `shift` of a full turn, in [-0.5, 0.5]."""
    r, g, b = view.unbind(1)
    high, low = view.amax(dim=1), view.amin(dim=1)
    spread = high - low
    safe = spread.clamp(min=1e-12)
    rc, gc, bc = (high - r) / safe, (high - g) / safe, (high - b) / safe
    hue = torch.where(r == high, bc - gc, torch.where(g == high, 2 + rc - bc, 4 + gc - rc)) / 6
    hue = torch.where(spread == 0, torch.zeros_like(hue), hue) + shift[:, 0]
    sector = (hue - hue.floor()) * 6
    sector_index = sector.floor()
    part, saturation = sector - sector_index, spread / high.clamp(min=1e-12)
    p, q, t = high * (1 - saturation), high * (1 - saturation * part), high * (1 - saturation * (1 - part))
    pick = sector_index.long().remainder(6).unsqueeze(1)

    def channel(*six: Tensor) -> Tensor:
        return torch.stack(six, dim=1).gather(1, pick)

    v = high
    return torch.cat([channel(v, q, p, p, t, v), channel(t, v, v, q, p, p), channel(p, p, t, v, v, q)], dim=1)
