"""Masks propagated through videos, as strips of frames and as animations."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup, escape
from PIL import Image, features

from evaltk.bench import Bench
from evaltk.data import frames as video
from evaltk.datasets.davis2017 import Sequence as Video
from evaltk.metrics.segmentation import region_similarity
from protocols import vos
from reports.pictures import svg
from reports.pictures.album import Album
from reports.pictures.page import Drawing, Group, Section
from reports.pictures.svg import Tile

MOST = 3  # videos
STRIP = 8  # frames of a strip
HEIGHT = 160  # of a frame in pixels
QUALITY, PACE = 55, 100  # of an animation: WebP, milliseconds per frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Propagated:
    """A checkpoint's masks of some videos: its name, and ids uint8 [T, H, W] of each."""

    name: str
    masks: tuple[np.ndarray, ...]


def propagated(bench: Bench, name: str, videos: Sequence[Video], size: int) -> Propagated:
    """Masks of all frames from those of the first, as the protocol `vos` makes them with frames of `size` px.

    Raises: DataError: an unusable frame or mask. SettingsError: a net without patch tokens.
    """
    c = bench.checkpoint
    settings = vos.Settings(size=size, mean=c.mean, std=c.std)
    made = [vos.propagate(bench.backbone, one.frames, video.read_ids(one.masks[0]), settings) for one in videos]
    return Propagated(name=name, masks=tuple(made))


def first_frames(videos: Sequence[Video], count: int) -> list[Video]:
    """The first few videos, each cut to its first `count` frames."""
    return [replace(one, frames=one.frames[:count], masks=one.masks[:count]) for one in videos[:MOST]]


def section(videos: Sequence[Video], found: Sequence[Propagated], album: Album) -> Section:
    """Strips and animations of the videos: the annotation, then each checkpoint."""
    groups = []
    for number, one in enumerate(videos):
        truth = video.read_masks(one.masks)
        shown = [_reduced(np.asarray(video.open_frame(path))) for path in one.frames]
        drawings = [Drawing(name="annotation", svg=_strip(shown, truth, one, album, f"Annotation: {one.name}"))]
        for net in found:
            masks = net.masks[number]
            name = f"{net.name}: J {100 * _similarity(truth, masks):.1f} % over {len(masks) - 1} frames"
            drawings.append(Drawing(name=name, svg=_strip(shown, masks, one, album, f"Masks: {net.name}, {one.name}")))
            if features.check("webp"):
                drawings.append(Drawing(name="", svg=_animation(shown, masks, f"{net.name}, {one.name}")))
        groups.append(Group(title=one.name, drawings=tuple(drawings)))
    return Section(
        name="videos",
        title="Masks through videos",
        about="The first frame's annotation propagated by the similarity of patch tokens, as DINO's script does "
        "(protocol vos), and J, the mean intersection over union of objects over these frames without the first. "
        "Numbers of whole videos come from evaltk run --protocols vos.",
        groups=tuple(groups),
    )


def _similarity(truth: np.ndarray, masks: np.ndarray) -> float:
    """Mean J over objects and frames without the first; 1 where there is one frame or no object."""
    ids = [i for i in np.unique(truth[0]).tolist() if i not in (0, video.VOID)]
    if len(truth) < 2 or not ids:
        return 1.0
    return float(np.mean([region_similarity(truth[1:] == i, masks[1:] == i).mean() for i in ids]))


def _strip(shown: Sequence[np.ndarray], masks: np.ndarray, one: Video, album: Album, label: str) -> Markup:
    places = np.unique(np.linspace(0, len(shown) - 1, min(STRIP, len(shown))).round().astype(int)).tolist()
    tiles = [Tile(photo=album.add(_painted(shown[i], masks[i])), foot=(one.frames[i].stem,)) for i in places]
    return svg.row(tiles, label)


def _animation(shown: Sequence[np.ndarray], masks: np.ndarray, label: str) -> Markup:
    frames = [Image.fromarray(_painted(frame, mask)) for frame, mask in zip(shown, masks, strict=True)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format="WEBP", save_all=True, append_images=frames[1:], duration=PACE, loop=0, quality=QUALITY
    )
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{frames[0].width}" height="{frames[0].height}"'
    image = f'<img src="{uri}" alt="Animated masks: {escape(label)}" {size}>'
    return Markup(f"<details><summary>Play</summary>{image}</details>")


def _reduced(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((max(1, round(image.width * HEIGHT / image.height)), HEIGHT)))


def _painted(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The frame with its objects in the colours of DAVIS, half transparent."""
    colours = np.frombuffer(video.palette(), dtype=np.uint8).reshape(256, 3)
    ids = video.resize_ids(mask, pixels.shape[1], pixels.shape[0])
    mixed = (pixels.astype(np.uint16) + colours[ids]) // 2
    return np.where((ids > 0)[..., None], mixed, pixels).astype(np.uint8)
