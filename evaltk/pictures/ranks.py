"""What retrieval ranks first for a query, with easy, hard and junk images marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from evaltk.bench import Bench
from evaltk.data.galleries import Gallery
from evaltk.metrics.retrieval import per_query
from protocols import retrieval
from protocols.retrieval import protocol as rules
from protocols.retrieval import ranking
from reports.pictures import svg
from reports.pictures.album import Album
from reports.pictures.page import Drawing, Group, Section
from reports.pictures.svg import Tile

FIRST = 8  # ranks that are shown
SIDE = 160  # longest side of an image in pixels
MARKS = {"easy": "good", "hard": "hard", "junk": "junk"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A checkpoint's ranking of the database for each query: its name, order [Q, N], best first."""

    name: str
    order: np.ndarray


def ranked(bench: Bench, name: str, gallery: Gallery) -> Ranked:
    """Rankings as the protocol `retrieval` makes them by default. Raises: DataError: an unreadable image."""
    settings = retrieval.Settings()
    x = {
        split.name: rules.describe(bench, gallery, split, settings, together=True)
        for split in (gallery.database, gallery.queries)
    }
    return Ranked(name=name, order=ranking.rank(x["queries"], x["database"]).order)


def section(gallery: Gallery, found: Sequence[Ranked], album: Album) -> Section:
    """The first ranks of each query, checkpoints below each other."""
    groups = []
    values = [per_query(one.order, gallery.truth.gnd)["medium"]["ap"] for one in found]
    for query, title in enumerate(gallery.truth.qimlist):
        marks = {
            int(i): label for label in MARKS for i in np.asarray(gallery.truth.gnd[query][label], dtype=int).tolist()
        }
        photo = album.add(_small(gallery.queries.open(query)))
        drawings = []
        for one, ap in zip(found, values, strict=True):
            tiles = [Tile(photo=photo, foot=("query",), words=title)]
            for place, row in enumerate(one.order[query, :FIRST].tolist(), 1):
                label = marks.get(row, "")
                tiles.append(
                    Tile(
                        photo=album.add(_small(gallery.database.open(row))),
                        foot=(f"{place}. {label or 'not relevant'}",),
                        mark=MARKS.get(label, "bad"),  # type: ignore[arg-type]
                        words=gallery.database.image_id(row),
                    )
                )
            precision = "no positives" if np.isnan(ap[query]) else f"AP (medium) {100 * ap[query]:.1f} %"
            name = f"{one.name}: {precision}"
            drawings.append(Drawing(name=name, svg=svg.row(tiles, f"Ranks: {one.name}, {title}")))
        groups.append(Group(title=title, drawings=tuple(drawings)))
    return Section(
        name="ranks",
        title="Retrieval ranks",
        about=f"The first {FIRST} of {len(gallery.database):,} database images for each query (protocol retrieval). "
        "Green: easy, blue: hard, gray: junk, which does not count, orange: not relevant. With fewer queries than the "
        "benchmark has, the database holds the images that their ground truth names and as many others.",
        groups=tuple(groups),
    )


def _small(image: Image.Image) -> np.ndarray:
    copy = image.convert("RGB")
    copy.thumbnail((SIDE, SIDE))
    return np.asarray(copy)
