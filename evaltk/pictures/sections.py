"""Sections of the page from what checkpoints see: each puts them side by side on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaltk.bench import Bench
from evaltk.data.images import Split
from evaltk.metrics import patches
from evaltk.models import attention
from evaltk.pictures import images, near
from evaltk.pictures.images import Chosen
from evaltk.pictures.near import Near
from evaltk.pictures.seen import Seen
from reports.pictures import album, svg
from reports.pictures.album import Album, Photo
from reports.pictures.page import Drawing, Group, Section
from reports.pictures.svg import Tile

THUMB = 128  # longest side of a neighbour's image in pixels
SHOWN_PAIRS = 6
MATCHES = 20  # lines of a pair
APART = 8  # they begin an eighth of the shorter side apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """Everything the sections draw.

    Attributes:
        seen, nears: by checkpoint, in order; `nears` is empty where no features were asked for.
        pixels: for each checkpoint, how it is given an image (PIL) as uint8 [H, W, 3].
        mass: share of the attention kept by the thresholded maps.
    """

    chosen: Chosen
    seen: Sequence[Seen]
    nears: Sequence[Near]
    pixels: Sequence[Callable[[Image.Image], np.ndarray]]
    mass: float
    album: Album = field(default_factory=Album)

    def photos(self, one: Seen) -> list[Photo]:
        """The images as a checkpoint gets them."""
        return [self.album.add(p) for p in one.pixels]

    def titles(self) -> list[str]:
        """Of the images shown: name, and class where there are several."""
        split = self.chosen.shown
        return [f"{split.image_id(row)}{_of_class(split, row)}" for row in range(len(split))]


def pixels_of(bench: Bench) -> Callable[[Image.Image], np.ndarray]:
    """How a checkpoint is given an image."""
    return bench.transform().pixels


def attention_maps(looks: Looks, block: int | None) -> Section:
    """Maps of each head and their mean, and what holds most of the attention."""
    groups = []
    having = [(one, looks.photos(one)) for one in looks.seen if one.maps]
    for number, title in enumerate(looks.titles()):
        drawings = tuple(
            Drawing(name=one.name, svg=_heads(one.maps[number], photos[number], looks.mass, f"{one.name}, {title}"))
            for one, photos in having
        )
        groups.append(Group(title=title, drawings=drawings))
    where = "the last block" if block is None else f"block {block}"
    return Section(
        name="attention",
        title="Attention",
        about=f"What the class token attends to among the patches in {where}: the mean of all heads, then each head, "
        "from its smallest (dark) to its largest weight (bright). "
        f"Below: the patches that hold {100 * looks.mass:g} % of a map's weight.",
        groups=tuple(groups) if having else (),
        missing=_missing(looks, "attention"),
    )


def _heads(maps: np.ndarray, photo: Photo, mass: float, label: str) -> Any:
    names = ["mean", *(f"head {h}" for h in range(1, len(maps) + 1))]
    every = np.concatenate([maps.mean(axis=0, keepdims=True), maps])
    kept = attention.keep_mass(torch.from_numpy(every), mass).numpy()
    size = (photo.width, photo.height)
    top = [Tile(photo=photo, foot=("image",))]
    below = [Tile(photo=photo, foot=(f"{100 * mass:g} % of weight",))]
    for name, values, held in zip(names, every, kept, strict=True):
        words = f"{name}: weights {values.min():.2g} to {values.max():.2g}, {values.sum():.0%} of all on patches"
        top.append(Tile(layers=(album.heat(values),), size=size, foot=(name,), words=words))
        below.append(
            Tile(
                photo=photo, layers=(album.outside(held),), foot=(name,), words=f"{name}: {held.mean():.0%} of patches"
            )
        )
    return svg.row(top, f"Attention maps: {label}") + svg.row(below, f"Thresholded attention: {label}")


def principal(looks: Looks) -> Section:
    """Principal components of the patches of all images together."""
    coloured = [patches.coloured(one.patches) if one.patches else () for one in looks.seen]
    photos = [looks.photos(one) for one in looks.seen]
    groups = []
    for number, title in enumerate(looks.titles()):
        tiles = []
        for one, found, mine in zip(looks.seen, coloured, photos, strict=True):
            if not found:
                continue
            size = (mine[number].width, mine[number].height)
            c = found[number]
            layers = (album.png(c.rgb), album.png(c.foreground_rgb))
            tiles.append(Tile(photo=mine[number], foot=(one.name,), words=one.name))
            tiles += [
                Tile(layers=(layer,), size=size, foot=(name,), words=f"{one.name}: {name}")
                for layer, name in zip(layers, ("all patches", "foreground"), strict=True)
            ]
        groups.append(Group(title=title, drawings=(Drawing(name="", svg=svg.row(tiles, f"Components: {title}")),)))
    return Section(
        name="components",
        title="Principal components of patches",
        about="Red, green and blue are the first three components of the patch tokens of all these images together; "
        "foreground: patches on the positive side of the first component (the side away from the borders), with the "
        "components of these alone. Colours mean the same in all images of one checkpoint, not across checkpoints.",
        groups=tuple(groups) if any(coloured) else (),
        missing=_missing(looks, "patches"),
    )


def correspondences(looks: Looks) -> Section:
    """Patches of two images that are each other's nearest."""
    groups = []
    titles = looks.titles()
    for a, b in images.pairs(looks.chosen.shown, SHOWN_PAIRS):
        drawings = []
        for one in looks.seen:
            if one.patches:
                mine = looks.photos(one)
                lines = _lines(one.patches[a], one.patches[b])
                label = f"Corresponding patches: {one.name}, {titles[a]} and {titles[b]}"
                drawings.append(Drawing(name=one.name, svg=svg.pair(mine[a], mine[b], lines, label)))
        if drawings:
            groups.append(Group(title=f"{titles[a]} and {titles[b]}", drawings=tuple(drawings)))
    few = () if len(looks.chosen.shown) > 1 else ("no correspondences: they need two images",)
    return Section(
        name="correspondences",
        title="Corresponding patches",
        about=f"Patches of two images, of one class where there are two, that are each other's nearest by cosine: the "
        f"{MATCHES} most similar, an eighth of the shorter side apart. Point at a line for its cosine.",
        groups=tuple(groups),
        missing=(*_missing(looks, "patches"), *few),
        beside=len(looks.seen) == 1,
    )


def _lines(a: np.ndarray, b: np.ndarray) -> list[tuple[float, float, float, float, str]]:
    found, cosines = patches.mutual_matches(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), a.size)
    apart, taken, lines = min(a.shape[:2]) // APART, [], []  # type: ignore[var-annotated]
    for (i, j), cosine in zip(found.tolist(), cosines.tolist(), strict=True):
        (ya, xa), (yb, xb) = divmod(i, a.shape[1]), divmod(j, b.shape[1])
        if len(lines) == MATCHES:
            break
        if any(max(abs(ya - y), abs(xa - x)) < apart for y, x in taken):
            continue
        taken.append((ya, xa))
        at = ((xa + 0.5) / a.shape[1], (ya + 0.5) / a.shape[0], (xb + 0.5) / b.shape[1], (yb + 0.5) / b.shape[0])
        lines.append((*at, f"cosine {cosine:.3f}"))
    return lines


def nearest(looks: Looks) -> Section:
    """The nearest images by the class feature."""
    groups = []
    for number, title in enumerate(looks.titles()):
        drawings = []
        for one, found, pixels in zip(looks.seen, looks.nears, looks.pixels, strict=True):
            query = Tile(photo=looks.photos(one)[number], foot=("image", *_class_line(looks.chosen.shown, number)))
            label = looks.chosen.shown.labels[number] if looks.chosen.labelled else None
            tiles = _thumbs(looks, pixels, found.rows[number], found.cosines[number], label)
            drawings.append(Drawing(name=one.name, svg=svg.row([query, *tiles], f"Neighbours: {one.name}, {title}")))
        groups.append(Group(title=title, drawings=tuple(drawings)))
    empty = not any(found.rows.shape[1] for found in looks.nears)
    return Section(
        name="neighbours",
        title="Nearest neighbours",
        about="The nearest images by the cosine of the class feature, most similar first"
        + ("; green: of the same class, orange: of another." if looks.chosen.labelled else "."),
        groups=() if empty else tuple(groups),
        missing=("no neighbours: there is no other image",) if empty else (),
    )


def mistakes(looks: Looks) -> Section:
    """Images that k-NN gets wrong with the highest confidence."""
    groups = []
    judged, classes = looks.chosen.judged, looks.chosen.bank.classes
    for one, found, pixels in zip(looks.seen, looks.nears, looks.pixels, strict=True):
        drawings = []
        for wrong in found.wrong:
            name = classes[wrong.predicted]
            foot = (*_class_line(judged, wrong.row), f"k-NN: {name}")
            tile = Tile(photo=looks.album.add(_thumb(pixels(judged.open(wrong.row)))), foot=foot, mark="bad")
            label = judged.labels[wrong.row]
            tiles = _thumbs(looks, pixels, wrong.rows, wrong.cosines, label)
            words = f"{judged.image_id(wrong.row)}: {classes[label]}, but {100 * wrong.share:.0f} % of votes for {name}"
            drawings.append(Drawing(name=words, svg=svg.row([tile, *tiles], words)))
        right = f"{found.correct:,} of {found.judged:,} right" if found.judged else "nothing judged"
        title = f"{one.name}: {right}, k = {found.k}"
        groups.append(Group(title=title, drawings=tuple(drawings)))
    return Section(
        name="mistakes",
        title="Most confident mistakes",
        about="Images that k-NN classifies wrongly with the largest share of the votes, and their nearest neighbours "
        "(green: of the right class). The accuracy is that of the images judged and searched here: a number to report "
        "comes from evaltk run.",
        groups=tuple(groups) if looks.chosen.labelled else (),
        missing=() if looks.chosen.labelled else ("no mistakes: the images have no two classes",),
    )


def features_map(looks: Looks, method: near.MapMethod, seed: int) -> Section:
    """Features in two dimensions, by class."""
    split = looks.chosen.judged
    few = min(len(found.features) for found in looks.nears) < near.FEW
    numbers, counts = np.unique(split.labels[split.labels >= 0], return_counts=True)
    most = numbers[np.lexsort((numbers, -counts))][: svg.COLOURS] if len(split.classes) > 1 else numbers[:0]
    colour = {int(label): place for place, label in enumerate(sorted(most.tolist()))}
    drawings = []
    for one, found in zip(looks.seen, looks.nears, strict=True) if not few else ():
        points = near.flat(found.features, method, seed)
        classes = np.asarray([colour.get(int(label), -1) for label in found.labels])
        words = [split.classes[label] if split.classes and label >= 0 else "" for label in found.labels.tolist()]
        cloud = svg.cloud(points, classes, words, f"Map of features by {NAMES[method]}: {one.name}")
        drawings.append(Group(title="", drawings=(Drawing(name=one.name, svg=cloud),)))
    legend = [(f"c{place}", split.classes[label]) for label, place in colour.items()]
    if len(numbers) > len(colour) > 0:
        legend.append(("rest", f"{len(numbers) - len(colour)} other classes"))
    return Section(
        name="map",
        title="Map of features",
        about=f"Class features of {len(looks.nears[0].features):,} images at unit length in two dimensions by "
        f"{NAMES[method]}."
        + ("" if method == "pca" else " The distance of far points means little in such maps, the axes nothing."),
        groups=tuple(drawings),
        missing=(f"no map: it needs {near.FEW} images",) if few else (),
        legend=tuple(legend),
        beside=True,
    )


NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def _thumbs(looks: Looks, pixels: Any, rows: Any, cosines: Any, label: int | None) -> list[Tile]:
    bank = looks.chosen.bank
    tiles = []
    for row, cosine in zip(map(int, rows), map(float, cosines), strict=True):
        mark = "" if label is None else "good" if bank.labels[row] == label else "bad"
        photo = looks.album.add(_thumb(pixels(bank.open(row))))
        foot = (f"{cosine:.3f}", *_class_line(bank, row))
        tiles.append(Tile(photo=photo, foot=foot, mark=mark, words=bank.image_id(row)))  # type: ignore[arg-type]
    return tiles


def _thumb(pixels: np.ndarray) -> np.ndarray:
    if max(pixels.shape[:2]) <= THUMB:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((THUMB, THUMB))
    return np.asarray(image)


def _class_line(split: Split, row: int) -> tuple[str, ...]:
    label = int(split.labels[row])
    return (split.classes[label],) if len(split.classes) > 1 and label >= 0 else ()


def _of_class(split: Split, row: int) -> str:
    found = _class_line(split, row)
    return f" ({found[0]})" if found and found[0] not in split.image_id(row).split("/") else ""


def _missing(looks: Looks, picture: str) -> tuple[str, ...]:
    return tuple(f"{one.name}: {one.missing[picture]}" for one in looks.seen if picture in one.missing)
