"""Draw what nets see: attention, patches, neighbours, mistakes, a map.

All on one page, several checkpoints side by side on the same images. The data may
also be any folder of images, or videos (davis2017), whose frames are shown.
Preprocessing is that of evaltk run; --crop 480 shows finer maps.

Examples:
    evaltk show dino_vits16 dinov2_vits14 --data imagenet=/data/imagenet --out page.html
    evaltk show mine.pth --data photos/ --images 8 --pictures attention components --crop 480 --whole
    evaltk show mine.pth --data digits --map pca
    evaltk show mine.pth --data digits --runs runs --out report.html    # within the report
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from evaltk import plugins
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import _options
from evaltk.cli._flags import Images, Machine, as_run
from evaltk.data.options import DataFlags, DataOptions
from evaltk.errors import SettingsError

if TYPE_CHECKING:
    from evaltk.pictures.sections import Looks
    from reports.pictures.page import Section

Picture = Literal["attention", "components", "correspondences", "neighbours", "mistakes", "map", "videos", "ranks"]
ALL: tuple[Picture, ...] = get_args(Picture)
ONLY = {"videos": "sequences", "ranks": "retrieval"}  # picture: the kind of dataset that it is of
OF_FEATURES = ("neighbours", "mistakes", "map")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Which pictures.

    Attributes:
        images: images shown, drawn class by class.
        pictures: attention, components (PCA of patches), correspondences, neighbours, mistakes, map; videos (of
            sequences), ranks (of retrieval benchmarks); default: all that the data allow.
        block: attention of this block (1 is the first; default: the last).
        mass: share of the attention that thresholded maps keep (DINO's figures: 0.6).
        whole: show whole images, the shorter side as the crop, instead of the centre crop.
        neighbours: neighbours shown per image.
        k: neighbours that vote (see evaltk run --protocols knn).
        bank: images searched for neighbours.
        points: images that are classified and drawn in the map.
        wrong: mistakes shown per checkpoint.
        map: pca, tsne or umap (pip install 'evaltk[umap]').
        frames: of each video, from the first on.
        video_size: shorter side of frames that masks are propagated through.
    """

    images: int = 16
    pictures: tuple[Picture, ...] = field(default=ALL, metadata={"metavar": "NAME ..."})
    block: int | None = None
    mass: float = 0.6
    whole: bool = False
    neighbours: int = 6
    k: int = 20
    bank: int = 1000
    points: int = 1000
    wrong: int = 12
    map: Literal["pca", "tsne", "umap"] = "tsne"
    frames: int = 24
    video_size: int = 480


@dataclass(frozen=True, kw_only=True)
class Showing:
    """What to show.

    Attributes:
        checkpoints: files, catalogue names, timm:NAME or random:ARCH[@SEED].
        data: a dataset (evaltk ls datasets), or a folder of images.
        out: the page to write.
        runs: results folder: write its report, as evaltk report does, with the pictures in it.
        seed: of random draws.
        force: overwrite an existing file.
        cache: cache folder (default: $EVALTK_HOME, ~/.cache/evaltk).
        plugin: your own datasets or families.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = field(metadata={"metavar": "CHECKPOINT ..."})
    data: str = field(metadata={"metavar": "[LABEL:]NAME=PATH"})
    out: Path = field(default=Path("page.html"), metadata={"metavar": "FILE"})
    runs: Path | None = field(default=None, metadata={"metavar": "DIR"})
    seed: int = 0
    force: bool = False
    cache: Path | None = None
    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = field(default=(), metadata={"metavar": "FILE.py"})


@dataclass(frozen=True, kw_only=True)
class Shown(Pictures, Showing):
    """What help shows in full."""


@dataclass(frozen=True, kw_only=True)
class Options(Machine, ReadOptions, Images, DataFlags, Shown):
    """Write a page of pictures."""


HEADINGS = {"Showing": "what to show", "Pictures": "which pictures"}


def main(argv: list[str]) -> int:
    """Look, write the page and print its path. Raises: EvaltkError: before any work where possible."""
    plugins.use(plugins.named_in(argv))
    if any(word in _options.HELP for word in argv):
        _options.show(_options.usage(Shown, "show", __doc__, groups=HEADINGS, more=as_run()))
    options = _options.parse(Options, argv, "show", __doc__)
    _check(options)
    from evaltk import files
    from evaltk.api.data import any_images
    from evaltk.cli import _in_report
    from evaltk.pictures import images
    from evaltk.progress import log
    from reports.pictures import page

    results = _in_report.measured(options.runs) if options.runs else None
    found = any_images(options.data, DataOptions.of(options, options.seed))
    pictures = _applying(options, getattr(found, "KIND", "images"))
    chosen = images.choose(
        found,
        count=options.images,
        bank=options.bank,
        points=options.points,
        seed=options.seed,
        skip=options.skip_bad_images,
    )
    made, looks = _drawn(options, pictures, found, chosen)
    told: dict[str, Any] = {
        "title": f"{', '.join(one.name for one in looks.seen)} on {chosen.shown.dataset}",
        "checkpoints": [(one.name, one.words) for one in looks.seen],
        "notes": chosen.notes,
    }
    if results is None:
        text = page.build(made, looks.album.symbols(), **told)
    else:
        text = _in_report.page(results, made, looks.album, shlex.join(["evaltk", "show", *argv]), **told)
    files.write_text(options.out, text)
    log.info("%d images of %s, %.1f MB", len(chosen.shown), chosen.shown.dataset, len(text.encode()) / 1e6)
    print(options.out)
    return 0


def _check(options: Options) -> None:
    """Raises: SettingsError: what can be refused before anything is read."""
    if not options.checkpoints:
        do = "evaltk show CKPT --data NAME=PATH"
        raise SettingsError(wanted="checkpoints to show", got="none", where="evaltk show", do=do)
    if not 0 < options.mass <= 1:
        raise SettingsError(wanted="a share in (0, 1]", got=str(options.mass), where="--mass", do="--mass 0.6")
    if options.frames < 2 or options.video_size < 64:
        got, where = f"{options.frames}, {options.video_size}", "--frames, --video-size"
        raise SettingsError(wanted="2 frames or more of 64 px or more", got=got, where=where, do="use 24 and 480")
    if not options.pictures:
        raise SettingsError(wanted=f"some of {', '.join(ALL)}", got="none", where="--pictures", do="leave it out")
    if options.out.is_dir():
        do = f"--out {options.out / 'page.html'}"
        raise SettingsError(wanted="a file to write", got="a folder", where=options.out, do=do)
    if options.out.exists() and not options.force:
        raise SettingsError(wanted="a new file", got="an existing one", where=options.out, do="pass --force")


def _applying(options: Options, kind: str) -> tuple[str, ...]:
    """The pictures asked for, of all those that such data have. Raises: SettingsError: one that they cannot have."""
    if options.pictures == ALL:
        return tuple(name for name in ALL if ONLY.get(name, kind) == kind)
    if odd := [name for name in options.pictures if ONLY.get(name, kind) != kind]:
        wanted, do = f"a dataset of {ONLY[odd[0]]} for {odd[0]}", "leave it out, or evaltk ls datasets"
        raise SettingsError(wanted=wanted, got=f"one of {kind}", where="--pictures", do=do)
    return tuple(name for name in ALL if name in options.pictures)


def _drawn(options: Options, pictures: Sequence[str], found: Any, chosen: Any) -> tuple[list[Section], Looks]:
    """(the sections of the page, what they show)."""
    from evaltk.checkpoints.load import load
    from evaltk.data import limits
    from evaltk.machine import resolve_device
    from evaltk.pictures import near, ranks, sections, seen, videos
    from evaltk.progress import log
    from evaltk.running import runner

    plan, device = _plan(options), resolve_device(options.device)
    looks_seen: list[seen.Seen] = []
    nears, pixels, masks, orders = [], [], [], []
    clips = videos.first_frames(found.sequences, options.frames) if "videos" in pictures else []
    gallery = limits.limited(found, options.images, options.seed) if "ranks" in pictures else None
    for word in dict.fromkeys(options.checkpoints):
        loaded = load(word, options.read_options())
        for note in loaded.notes:
            log.info("%s: %s", loaded.name, note)
        bench = runner.bench_with(plan, loaded, device)
        name = loaded.name if loaded.name not in {s.name for s in looks_seen} else word
        looks_seen.append(seen.look(bench, chosen.shown, name=name, block=options.block, whole=options.whole))
        pixels.append(sections.pixels_of(bench))
        if set(pictures) & set(OF_FEATURES):
            shown, wrong = options.neighbours, options.wrong
            nears.append(near.look(bench, chosen, k=options.k, shown=shown, wrong=wrong))
        if clips:
            masks.append(videos.propagated(bench, name, clips, options.video_size))
        if gallery is not None:
            orders.append(ranks.ranked(bench, name, gallery))
    looks = sections.Looks(chosen=chosen, seen=looks_seen, nears=nears, pixels=pixels, mass=options.mass)
    made = _sections(options, pictures, looks)
    made += [videos.section(clips, masks, looks.album)] if clips else []
    made += [ranks.section(gallery, orders, looks.album)] if gallery is not None else []
    return made, looks


def _sections(options: Options, pictures: Sequence[str], looks: Looks) -> list[Section]:
    from evaltk.pictures import sections

    makers = {
        "attention": lambda: sections.attention_maps(looks, options.block),
        "components": lambda: sections.principal(looks),
        "correspondences": lambda: sections.correspondences(looks),
        "neighbours": lambda: sections.nearest(looks),
        "mistakes": lambda: sections.mistakes(looks),
        "map": lambda: sections.features_map(looks, options.map, options.seed),
    }
    return [make() for name, make in makers.items() if name in pictures]


def _plan(options: Options):  # type: ignore[no-untyped-def]
    from evaltk.checkpoints import catalog
    from evaltk.running.planning import Plan

    return Plan(
        checkpoints=options.checkpoints,
        protocols={},
        data=(options.data,),
        out=options.out.parent,
        cache=options.cache or catalog.home(),
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        position=options.position,
        images=options.image_options(),
        batch_size=None if options.batch_size == "auto" else options.batch_size,
        workers=options.workers,
        skip_bad_images=options.skip_bad_images,
    )
