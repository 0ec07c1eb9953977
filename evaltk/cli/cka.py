"""Compare the features of checkpoints or blocks by linear CKA.

On the same images, CKA is 1 where features agree up to rotation and scale, 0 where they have nothing in common.

Examples:
    evaltk cka dino_vits16 dinov2_vits14 mae_vitb16 --data imagenet=/data/imagenet --limit 5000
    evaltk cka mine.pth dino_vits16 --blocks --data photos/
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from evaltk import plugins
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import _options
from evaltk.cli._flags import Images, Machine, as_run
from evaltk.data.options import DataFlags, DataOptions
from evaltk.errors import DataError, SettingsError

if TYPE_CHECKING:
    import numpy as np

MOST_BLOCKS = 2  # checkpoints whose blocks are compared


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """What to compare.

    Attributes:
        checkpoints: files, catalogue names, timm:NAME or random:ARCH[@SEED].
        data: a dataset (evaltk ls datasets), or a folder of images.
        blocks: compare the class tokens of all blocks, of one checkpoint or of two.
        part: train, test or val (default: the one scores are reported on; all images of a plain folder).
        limit: so many of these images, class-balanced.
        seed: of random draws.
        cache: cache folder (default: $EVALTK_HOME, ~/.cache/evaltk).
        plugin: your own datasets or families.
        json: print JSON instead of a table.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = field(metadata={"metavar": "CHECKPOINT ..."})
    data: str = field(metadata={"metavar": "[LABEL:]NAME=PATH"})
    blocks: bool = False
    part: str | None = None
    limit: int | None = 5000
    seed: int = 0
    cache: Path | None = None
    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = field(default=(), metadata={"metavar": "FILE.py"})
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Options(Machine, ReadOptions, Images, DataFlags, Comparing):
    """Compare features."""


HEADINGS = {"Comparing": "what to compare"}


def main(argv: list[str]) -> int:
    """Extract features where they are not in the cache, compare, print. Raises: EvaltkError."""
    plugins.use(plugins.named_in(argv))
    if any(word in _options.HELP for word in argv):
        _options.show(_options.usage(Comparing, "cka", __doc__, groups=HEADINGS, more=as_run(split=False)))
    options = _options.parse(Options, argv, "cka", __doc__)
    words = tuple(dict.fromkeys(options.checkpoints))
    if options.blocks and not 1 <= len(words) <= MOST_BLOCKS:
        wanted, do = "one checkpoint or two with --blocks", "evaltk cka A B --blocks --data NAME"
        raise SettingsError(wanted=wanted, got=str(len(words)), where="evaltk cka", do=do)
    if not options.blocks and len(words) < MOST_BLOCKS:
        wanted, do = "two checkpoints or more", "name another, or --blocks for the blocks of one"
        raise SettingsError(wanted=wanted, got=" ".join(words) or "none", where="evaltk cka", do=do)
    parts, images = _features(options, words)
    rows = parts[0] if options.blocks else [one for found in parts for one in found]
    columns = parts[-1] if options.blocks else rows
    _print(rows, columns, images, options.json)
    return 0


def _features(options: Options, words: tuple[str, ...]) -> tuple[list[list[tuple[str, np.ndarray]]], str]:
    """([(label, features [N, D]), ...] of each checkpoint, what the images are)."""
    from evaltk.api import extract
    from evaltk.api.data import any_images
    from evaltk.bench import Need
    from evaltk.checkpoints import catalog
    from evaltk.checkpoints.load import load
    from evaltk.machine import resolve_device
    from evaltk.running import runner
    from evaltk.types import Recipe

    found = any_images(options.data, DataOptions.of(options, options.seed))
    split = extract.split_of(found, options.part, options.limit, options.seed)
    plan = runner.Plan(
        checkpoints=words,
        protocols={},
        data=(options.data,),
        out=Path(),
        cache=options.cache or catalog.home(),
        seed=options.seed,
        precision=options.precision,
        position=options.position,
        images=options.image_options(),
        batch_size=None if options.batch_size == "auto" else options.batch_size,
        workers=options.workers,
        skip_bad_images=options.skip_bad_images,
    )
    parts, ids = [], None
    for word in words:
        loaded = load(word, options.read_options())
        bench = runner.bench_with(plan, loaded, resolve_device(options.device))
        backbone = bench.backbone
        depth = backbone.kind.num_blocks(backbone.arch) if options.blocks else 1
        if options.blocks and (depth == 1 or backbone.arch.kind == "swin"):
            wanted, do = "a net whose blocks have class tokens of one width", "leave --blocks out"
            raise SettingsError(wanted=wanted, got=backbone.arch.kind, where=loaded.name, do=do)
        need = Need(recipe=Recipe(last=depth, norm=not options.blocks))
        need = need if options.blocks else bench.class_feature(need)
        bench.prepare(split, (need,))
        features = bench.features(split, need)
        if ids is not None and features.ids != ids:
            do = "leave --skip-bad-images out, and restore the files"
            raise DataError(wanted="the same images for all", got="others left out", where=loaded.name, do=do)
        ids = features.ids
        width = features.x.shape[1] // depth
        names = [f"{loaded.name} block {b + 1}" for b in range(depth)] if options.blocks else [loaded.name]
        parts.append([(name, features.x[:, b * width : (b + 1) * width]) for b, name in enumerate(names)])
    return parts, f"{len(ids or ()):,} images of {split.dataset} {split.name}"


def _print(rows: list[Any], columns: list[Any], images: str, as_json: bool) -> None:
    from evaltk.metrics.geometry import linear_cka

    values = [[linear_cka(a, b) for _, b in columns] for _, a in rows]
    names = [[name for name, _ in side] for side in (rows, columns)]
    if as_json:
        clean = [[v if v == v else None for v in line] for line in values]  # NaN of constant features
        print(json.dumps({"images": images, "rows": names[0], "columns": names[1], "cka": clean}))
        return
    from reports.formats import render
    from reports.table import Cell, Table

    lines = tuple(
        (name, tuple(Cell(value=v, unit="count", digits=3) if v == v else Cell(note="constant") for v in line))
        for name, line in zip(names[0], values, strict=True)
    )
    table = Table(title=f"Linear CKA on {images}", name="cka", columns=tuple(names[1]), rows=lines)
    sys.stdout.write(render.render_all([table], "terminal" if sys.stdout.isatty() else "md"))
