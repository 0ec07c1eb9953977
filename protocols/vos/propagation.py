"""Propagation of a video's first mask through all frames: frames to tokens, tokens to soft labels, labels to masks.

Source: dino/eval_video_segmentation.py at 7c446df.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from evaltk import spread
from evaltk.data import frames as images
from evaltk.data.frames import VOID, Frame
from evaltk.errors import DataError, SettingsError
from evaltk.models.backbone import Backbone
from protocols.vos.affinity import AffinityConfig, Contexts, propagate_labels

BAND = 64  # pixel rows per piece of work
ON_CARD = 4  # frames a forward pass on a GPU: at patch 8 a frame of DAVIS is 6,240 tokens, enough to fill it
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PropagationConfig:
    """Configuration of the propagation through a video.

    Attributes:
        size: shorter side of the frames in pixels. mean, std: pixel statistics, RGB in [0, 1].
        previous: number of previous context frames, in addition to the first. affinity: weights of context tokens.
    """

    size: int
    mean: Triple
    std: Triple
    previous: int
    affinity: AffinityConfig


def propagate(
    backbone: Backbone, frames: Sequence[Frame], first_mask: np.ndarray, config: PropagationConfig
) -> np.ndarray:
    """Object ids of every frame, uint8 [T, H, W]; arguments and errors as `protocols.vos.propagate`."""
    mask = _checked(backbone, frames, first_mask)
    height, width = mask.shape
    masks = np.empty((len(frames), height, width), dtype=np.uint8)
    masks[0] = mask
    contexts, objects = None, np.empty(0, dtype=np.uint8)
    for t, tokens in enumerate(_tokens(backbone, frames, (width, height), config)):
        if contexts is None:
            objects, labels = one_hot(mask, tokens)
            contexts = Contexts(tokens, labels, previous=config.previous)
            continue
        labels = propagate_labels(tokens, contexts, config.affinity)
        contexts.push(tokens, labels)
        masks[t] = images.resize_ids(objects[winner(labels, backbone.arch.patch_size).cpu().numpy()], width, height)
    return masks


def _checked(backbone: Backbone, frames: Sequence[Frame], first_mask: np.ndarray) -> np.ndarray:
    """The validated first mask as uint8 [H, W], of the first frame's size."""
    if backbone.arch.kind == "pixels":
        raise SettingsError(
            wanted="a net with patch tokens", got=backbone.arch.name, where="vos", do="leave it out of --protocols vos"
        )
    mask = np.asarray(first_mask)
    if not len(frames):
        raise DataError(wanted="at least one frame", got="none", where="propagate", do="give the frames of a video")
    if mask.ndim != 2 or mask.dtype.kind not in "biu" or mask.min() < 0 or mask.max() > VOID:
        raise DataError(
            wanted="object ids 0 to 255 [H, W]",
            got=f"{mask.dtype} {list(mask.shape)}",
            where="first mask",
            do="give an index mask, not an RGB image",
        )
    width, height = images.frame_size(frames[0])
    if mask.shape != (height, width):
        raise DataError(
            wanted=f"a first mask of {width} x {height}, like the first frame",
            got=f"{mask.shape[1]} x {mask.shape[0]}",
            where=frames[0],
            do="give frames and masks of the same resolution",
        )
    return mask.astype(np.uint8)


def _tokens(
    backbone: Backbone, frames: Sequence[Frame], full: tuple[int, int], config: PropagationConfig
) -> Iterator[torch.Tensor]:
    """Patch tokens [h, w, D] of each frame after the final norm; the next frames are decoded in the background."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
    size = images.working_size(*full, config.size)

    def pixels(frame: Frame) -> torch.Tensor:
        image = images.open_frame(frame)
        if image.size != full:
            raise DataError(
                wanted=f"{full[0]} x {full[1]}, the size of the first frame",
                got=f"{image.size[0]} x {image.size[1]}",
                where=frame,
                do="give frames of the same size",
            )
        resized = images.resize_bilinear(np.array(image), *size)
        with spread.one_thread():  # the net uses the other threads
            x = torch.from_numpy(resized).permute(2, 0, 1).unsqueeze(0).float() / 255
            return (x - mean) / std

    step = at_once(backbone.device)
    with ThreadPoolExecutor(max_workers=step) as pool:
        ahead = [pool.submit(pixels, frame) for frame in frames[:step]]
        for t in range(0, len(frames), step):
            ready = torch.cat([one.result() for one in ahead])
            ahead = [pool.submit(pixels, frame) for frame in frames[t + step : t + 2 * step]]
            grid, patches = _forward(backbone, ready)
            finite = torch.isfinite(patches).flatten(1).all(dim=1).tolist()
            for number, fine in enumerate(finite):
                if not fine:
                    raise DataError(
                        wanted="finite tokens",
                        got="NaN or infinity",
                        where=frames[t + number],
                        do="try --precision fp32; if that fails too, the checkpoint is corrupt or has diverged",
                    )
            yield from (one.view(*grid, -1) for one in patches)


def at_once(device: torch.device) -> int:
    """Frames a forward pass. On a CPU one: nothing is gained, and products of other shapes round differently."""
    return ON_CARD if device.type == "cuda" else 1


def _forward(backbone: Backbone, x: torch.Tensor) -> tuple[tuple[int, int], torch.Tensor]:
    """The grid and the patch tokens [B, h * w, D] of x [B, 3, H, W]; in halves where memory does not suffice.

    Raises: torch.OutOfMemoryError: not even for one frame.
    """
    try:
        (tokens,) = backbone.tokens(x)
        return tokens.grid, tokens.patches
    except torch.OutOfMemoryError:
        if len(x) == 1:
            raise
    halves = [_forward(backbone, half) for half in x.chunk(2)]  # outside: the error holds what did not fit
    return halves[0][0], torch.cat([patches for _, patches in halves])


def one_hot(mask: np.ndarray, tokens: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
    """(ids in the mask downsampled to the token grid, 0 first; their one-hot labels [h, w, C]).

    Ids without a token are dropped: their channel would be all zeros and never win.
    """
    height, width, _ = tokens.shape
    small = images.resize_ids(np.where(mask == VOID, 0, mask).astype(np.uint8), width, height)
    objects = np.union1d(small, [0]).astype(np.uint8)
    one_hot = small[..., None] == objects
    return objects, torch.from_numpy(one_hot).to(tokens)


def winner(labels: torch.Tensor, patch: int) -> torch.Tensor:
    """Channel with the highest label per pixel, int64 [h * patch, w * patch], from soft labels [h, w, C].

    Each channel is upsampled and rescaled to [0, 1] on its own; ties go to the first, so channels are compared in
    order. A constant channel becomes 0 / 0 in the reference, and wins everywhere.
    """
    h, w, num = labels.shape
    stretched = torch.empty(num, h * patch, w * patch, device=labels.device)
    winners = torch.zeros(h * patch, w * patch, device=labels.device, dtype=torch.int64)

    def stretch(channel: int) -> None:
        soft = labels[None, None, :, :, channel]
        full = F.interpolate(soft, scale_factor=patch, mode="bilinear", align_corners=False)[0, 0]
        low, high = full.min(), full.max()
        even = torch.where(high > low, (full - low) / (high - low), torch.inf)
        stretched[channel] = torch.where(high > 0, even, full)

    def compare(top: int) -> None:
        rows = slice(top, top + BAND)
        best = stretched[0, rows].clone()
        for channel in range(1, num):
            better = stretched[channel, rows] > best
            winners[rows][better] = channel
            best = torch.where(better, stretched[channel, rows], best)

    spread.each(stretch, range(num), labels.device)
    spread.each(compare, range(0, len(winners), BAND), labels.device)
    return winners
