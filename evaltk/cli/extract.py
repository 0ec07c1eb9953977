"""Write features to a file, for UMAP, FAISS or scikit-learn.

The file has features, labels, image names and what they depend on: .npz, .safetensors or .parquet (needs pyarrow). The
data may also be any folder of images, with class folders or without.

Examples:
    evaltk extract dino_vits16 --data digits --part train --out train.npz
    evaltk extract mine.pth --data photos/ --out photos.parquet
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from evaltk import plugins
from evaltk.bench import ImageOptions
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import _options
from evaltk.cli._flags import Images, Machine, as_run
from evaltk.data.options import DataFlags, DataOptions
from evaltk.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Feature:
    """Which feature.

    Attributes:
        tokens: class token, mean of the patch tokens, or both side by side.
        last: concatenate the class tokens of so many last blocks.
        norm: apply the net's final norm.
    """

    tokens: Literal["cls", "mean", "cls+mean"] = field(default="cls", metadata={"metavar": "cls|mean|cls+mean"})
    last: int = 1
    norm: bool = True


@dataclass(frozen=True, kw_only=True)
class Extracting:
    """What to extract.

    Attributes:
        checkpoint: a file, catalogue name, timm:NAME, random:ARCH[@SEED] or pixels:SIZE.
        data: a dataset (evaltk ls datasets), or a folder of images.
        out: file to write: .npz, .safetensors or .parquet.
        part: train, test or val (default: the one scores are reported on; all images of a plain folder).
        limit: so many of these images, class-balanced.
        seed: of random draws.
        force: overwrite an existing file.
        cache: cache folder (default: $EVALTK_HOME, ~/.cache/evaltk).
        plugin: your own datasets or families.
        json: print JSON instead of text.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    data: str = field(metadata={"metavar": "[LABEL:]NAME=PATH"})
    out: Path = field(metadata={"metavar": "FILE"})
    part: str | None = None
    limit: int | None = None
    seed: int = 0
    force: bool = False
    cache: Path | None = None
    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = field(default=(), metadata={"metavar": "FILE.py"})
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Shown(Feature, Extracting):
    """What help shows in full."""


@dataclass(frozen=True, kw_only=True)
class Options(Machine, ReadOptions, Images, DataFlags, Shown):
    """Extract features."""


HEADINGS = {"Extracting": "what to extract", "Feature": "which feature"}


def main(argv: list[str]) -> int:
    """Extract, write, and print where. Raises: EvaltkError: before any work where possible."""
    plugins.use(plugins.named_in(argv))
    if any(word in _options.HELP for word in argv):
        _options.show(_options.usage(Shown, "extract", __doc__, groups=HEADINGS, more=as_run()))
    options = _options.parse(Options, argv, "extract", __doc__)
    from evaltk.features.export import check_path

    check_path(options.out.expanduser())
    if options.out.expanduser().exists() and not options.force:
        raise SettingsError(wanted="a new file", got="an existing one", where=options.out, do="pass --force")
    from evaltk.checkpoints import locate

    locate.check(options.checkpoint)
    from evaltk.api import extract, subjects
    from evaltk.api.data import any_images
    from evaltk.checkpoints.load import load
    from evaltk.types import Recipe

    found_data = any_images(options.data, DataOptions.of(options, options.seed))
    images = extract.split_of(found_data, options.part, options.limit, options.seed)
    subject = subjects.of(load(options.checkpoint, options.read_options()), None, name=None, device=None)
    recipe = Recipe(tokens=options.tokens, last=options.last, norm=options.norm)
    found = extract.extracted(_plan(options), subject, images, recipe)
    path = found.save(options.out)
    shape = {"path": str(path), "images": len(found.x), "width": found.x.shape[1], "split": images.name}
    if options.json:
        print(json.dumps(shape | {"key": found.key.digest(), "skipped": len(found.skipped)}))
    else:
        print(path, f"{len(found.x):,} images of {images.dataset} {images.name}", f"D = {found.x.shape[1]}", sep="\t")
    return 0


def _plan(options: Options):  # type: ignore[no-untyped-def]
    from evaltk.checkpoints import catalog
    from evaltk.running.planning import Plan

    return Plan(
        checkpoints=(options.checkpoint,),
        protocols={},
        data=(options.data,),
        out=options.out.parent,
        cache=options.cache or catalog.home(),
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        position=options.position,
        images=ImageOptions(resize=options.resize, crop=options.crop, interpolation=options.interpolation),
        batch_size=None if options.batch_size == "auto" else options.batch_size,
        workers=options.workers,
        skip_bad_images=options.skip_bad_images,
    )
