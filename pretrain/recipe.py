"""A recipe: everything a training run depends on, read from TOML with overrides. Unknown keys are errors."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evaltk.errors import SettingsError, nearest
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD

Triple = tuple[float, float, float]
Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What is learnt.

    Attributes:
        name: dino, ibot or msn. scoring: linear (g free), cosine (g = 1) or vmf (g free, log C_p added).
        centering: logit (Eq. 8) or probability (Eq. 9). num_prototypes: K. hidden, bottleneck: widths of the head.
        student_temp: tau_s. teacher_temp, teacher_temp_end, teacher_temp_warmup: tau_t from, to, over so many epochs.
        patch_weight, cls_weight, mask_ratios, mask_half_widths: iBOT's. shared_head: CLS and patches share prototypes.
        sharpen, sinkhorn, me_max, patch_drop: MSN's target temperature, iterations, weight, share of dropped patches.
    """

    name: Literal["dino", "ibot", "msn"] = "dino"
    scoring: Literal["linear", "cosine", "vmf"] = "linear"
    centering: Literal["logit", "probability"] = "logit"
    num_prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    student_temp: float = 0.1
    teacher_temp: float = 0.04
    teacher_temp_end: float = 0.07
    teacher_temp_warmup: int = 30
    center_momentum: float = 0.9
    cls_weight: float = 1.0
    patch_weight: float = 1.0
    shared_head: bool = True
    mask_ratios: tuple[float, ...] = (0.0, 0.3)
    mask_half_widths: tuple[float, ...] = (0.0, 0.2)
    sharpen: float = 0.25
    sinkhorn: int = 3
    me_max: float = 1.0
    patch_drop: float = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """The backbone: arch as `random:ARCH` names it; drop_path of the student's blocks (linear over depth)."""

    arch: str = "vit_small_patch16_224"
    drop_path: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Images to learn from: a word as of ``evaltk run --data``, ``folder=DIR`` or ``zip=FILE``.

    Labels, where there are any, serve only the k-NN that watches the run.

    Attributes:
        skip_bad_images: how many unreadable images may be replaced by another before the run stops.
        mean, std: pixel statistics the views are normalised with.
    """

    source: str = ""
    skip_bad_images: int = 0
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Multi-crop (dino/main_dino.py:419-464). Sizes in pixels, scales as shares of the image's area.

    Attributes:
        where: workers (Pillow, the reference) or device (the same parameters, batched tensors).
        blur, solarize: probabilities for the first global, the second global, the locals.
    """

    where: Literal["workers", "device"] = "workers"
    num_global: int = 2
    num_local: int = 10
    global_size: int = 224
    local_size: int = 96
    global_scale: Range = (0.25, 1.0)
    local_scale: Range = (0.05, 0.25)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_prob: float = 0.8
    gray_prob: float = 0.2
    flip_prob: float = 0.5
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    blur_radius: Range = (0.1, 2.0)
    solarize: tuple[float, float, float] = (0.0, 0.2, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optim:
    """AdamW and its schedules.

    Attributes:
        batch: images a step over all processes. lr: peak; with scale_lr it is multiplied by batch/256.
        warmup_epochs: of the learning rate; may be a fraction. freeze_last_layer: in whole epochs.
        clip: 0 is off; clip_kind: parameter (each tensor's own norm, DINO) or global.
        momentum, momentum_end: of the teacher. stretch: schedules are laid out for so many times the run (MSN: 1.25).
    """

    batch: int = 1024
    epochs: int = 100
    lr: float = 5e-4
    scale_lr: bool = True
    start_lr: float = 0.0
    min_lr: float = 1e-6
    warmup_epochs: float = 10
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    clip: float = 3.0
    clip_kind: Literal["parameter", "global"] = "parameter"
    freeze_last_layer: int = 1
    momentum: float = 0.996
    momentum_end: float = 1.0
    stretch: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How it is run; only seed and precision change what is learnt beyond rounding.

    Attributes:
        accumulate: micro-batches a step. save_minutes: between checkpoints. keep_every: epochs between copies kept.
        log_every: steps between log lines; monitor_every: steps between the costly ones (k-NN, prototypes).
        knn: images of the slice that k-NN is watched on (0: none).
    """

    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    seed: int = 0
    workers: int = -1
    accumulate: int = 1
    compile: bool = False
    save_minutes: float = 20.0
    keep_every: int = 20
    log_every: int = 50
    monitor_every: int = 2000
    knn: int = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole recipe; `name` is its file's."""

    name: str = "recipe"
    method: Method = field(default_factory=Method)
    net: Net = field(default_factory=Net)
    data: Data = field(default_factory=Data)
    views: Views = field(default_factory=Views)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


def names() -> list[str]:
    """The bundled recipes."""
    return sorted(p.stem for p in (Path(__file__).parent / "recipes").glob("*.toml"))


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by bundled name or path, with ``section.key=value`` overrides (values in TOML's notation).

    Raises: SettingsError: no such recipe, unknown key, wrong type, value out of range.
    """
    path = Path(name) if name.endswith(".toml") else Path(__file__).parent / "recipes" / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(wanted="a recipe", got=repr(name), where=path, do=nearest(name, names())) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(wanted="TOML", got=str(error), where=path, do="mend the file") from error
    for word in overrides:
        key, eq, text = word.partition("=")
        section, dot, leaf = key.strip().partition(".")
        if not eq or not dot:
            raise SettingsError(
                wanted="section.key=value", got=repr(word), where="--set", do="e.g. --set optim.epochs=100"
            )
        table.setdefault(section, {})[leaf] = _value(text)
    recipe = _build(Recipe, table | {"name": path.stem}, str(path))
    check(recipe)
    return recipe


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _build(kind: type, table: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = [key for key in table if key not in hints]
    if unknown:
        raise SettingsError(wanted="a known key", got=repr(unknown[0]), where=where, do=nearest(unknown[0], hints))
    return kind(**{key: _fit(hints[key], value, f"{where}, {key}") for key, value in table.items()})


def _fit(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type a field is annotated with. Raises: SettingsError."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise SettingsError(wanted="a table", got=repr(value), where=where, do="write [section]")
        return _build(typing.cast(type, hint), value, where)
    if isinstance(hint, types.GenericAlias) and hint.__origin__ is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)
        kinds = [inner[0]] * len(value) if Ellipsis in inner else list(inner)
        if len(kinds) == len(value):
            return tuple(_fit(k, v, where) for k, v in zip(kinds, value, strict=True))
    elif typing.get_origin(hint) is Literal:
        if value in typing.get_args(hint):
            return value
        wanted = " or ".join(map(str, typing.get_args(hint)))
        raise SettingsError(wanted=wanted, got=repr(value), where=where, do="mend the value")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise SettingsError(wanted=getattr(hint, "__name__", str(hint)), got=repr(value), where=where, do="mend the value")


def check(recipe: Recipe) -> None:
    """Raises: SettingsError: a value that no run can have."""
    m, v, o, r = recipe.method, recipe.views, recipe.optim, recipe.run
    rules = [
        (m.num_prototypes >= 2, "method.num_prototypes >= 2", m.num_prototypes),
        (min(m.student_temp, m.teacher_temp, m.teacher_temp_end) > 0, "temperatures > 0",
         (m.student_temp, m.teacher_temp, m.teacher_temp_end)),
        (0 <= m.center_momentum < 1, "method.center_momentum in [0, 1)", m.center_momentum),
        (0 <= m.patch_drop < 1, "method.patch_drop in [0, 1)", m.patch_drop),
        (v.num_global >= 1 and v.num_local >= 0, "views.num_global >= 1, num_local >= 0", (v.num_global, v.num_local)),
        (m.name == "msn" or v.num_global + v.num_local >= 2, "at least two views", v.num_global + v.num_local),
        (m.name == "dino" or v.num_global == 2, f"views.num_global = 2 for {m.name}", v.num_global),
        (o.epochs >= 1 and o.batch >= 1 and r.accumulate >= 1, "epochs, batch, accumulate >= 1",
         (o.epochs, o.batch, r.accumulate)),
        (0 <= o.warmup_epochs <= o.epochs, "optim.warmup_epochs within the epochs", o.warmup_epochs),
        (o.lr > 0 and o.clip >= 0 and o.stretch >= 1, "optim.lr > 0, clip >= 0, stretch >= 1",
         (o.lr, o.clip, o.stretch)),
        (0 <= o.momentum <= 1 and 0 <= o.momentum_end <= 1, "optim.momentum in [0, 1]", (o.momentum, o.momentum_end)),
        (m.name != "msn" or m.scoring == "cosine", "method.scoring = cosine for msn (kappa is fixed)", m.scoring),
    ]  # fmt: skip
    for fine, wanted, got in rules:
        if not fine:
            raise SettingsError(wanted=wanted, got=str(got), where=f"recipe {recipe.name}", do="mend it, or pass --set")
