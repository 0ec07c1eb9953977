"""What tensors do not contain: attention heads, LayerNorm's epsilon, pixel statistics. Known, or asked for at once.

A wrong value gives wrong features in silence, so nothing is assumed. A value comes from the user's flag, the file's
own statement, or the family where something identifies it (its layout, the file's sha256, `--family`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evaltk.checkpoints.rawfile import Converted
from evaltk.checkpoints.read_options import ReadOptions, Triple
from evaltk.errors import CheckpointError, SettingsError
from evaltk.models import kind
from evaltk.models.vit_layout import HINTS, STANDARD_HEADS
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, Arch

# Option -> (what its value is called, the flag with a placeholder).
ASKED = {
    "num_heads": ("the number of attention heads", "--num-heads N"),
    "norm_eps": ("the epsilon of the LayerNorms", "--norm-eps EPS"),
    "activation": ("the activation of the MLPs", "--activation NAME"),
    "stem": ("the stem of the ResNet", "--stem NAME"),
    "mean": ("the pixel mean", "--mean R G B"),
    "std": ("the pixel standard deviation", "--std R G B"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """An architecture with nothing left open, the pixel statistics (RGB, of [0, 1]), and notes on hints set aside."""

    arch: Arch
    mean: Triple
    std: Triple
    notes: tuple[str, ...]


def complete(
    arch: Arch, found: Converted, options: ReadOptions, path: Path, *, family: str, catalogued: str = ""
) -> Completed:
    """Fill in what the tensors left open.

    Args:
        arch: as the tensors tell it (0 heads and epsilon 0 where they do not), or as the file states it.
        catalogued: the catalogue's name of the file, whose values are those of its family.

    Raises:
        CheckpointError: values that nothing fixes, all of them named in one message with a command to paste; heads
            that do not divide the width.
        SettingsError: a flag that contradicts what the file, its name or the catalogue states.
    """
    notes: tuple[str, ...] = ()
    heads, eps, act = arch.num_heads, arch.norm_eps, arch.activation
    open_ = not kind.of(arch.kind).built_by_name  # heads and epsilon are not in the tensors
    if found.arch is None and open_:
        if not heads:
            heads, notes = _heads(arch.embed_dim, found, options)
        eps = options.norm_eps or found.norm_eps or 0.0
        act = options.activation or act or found.activation or ""
    stem = str(arch.detail("stem", "imagenet")) if arch.kind == "resnet" else ""
    stem = stem or options.stem or found.stem or ""
    mean, std = options.mean or found.mean, options.std or found.std
    if found.arch is None:
        _check_tensors(arch, options, path)
    _check_contradictions(replace(arch, num_heads=heads, norm_eps=eps), found, options, path, catalogued)
    if found.hint_patch not in (None, arch.patch_size):
        notes += (f"the file says patch {found.hint_patch}, its tensors {arch.patch_size}: hint set aside",)
    values: dict[str, object] = {"mean": mean, "std": std}
    if open_:
        values = {"num_heads": heads, "norm_eps": eps, "activation": act} | values
    if arch.kind == "resnet":
        values = {"stem": stem} | values
    if missing := [name for name, value in values.items() if not value]:
        raise _question(missing, arch, options, path, family=family, notes=notes)
    assert mean is not None and std is not None
    if open_:
        if arch.embed_dim % heads:
            raise CheckpointError(
                wanted=f"a number of heads that divides the width {arch.embed_dim}",
                got=str(heads),
                where=f"--num-heads, {path}",
                do="take num_heads from the code that trained the net",
            )
        arch = replace(arch, num_heads=heads, norm_eps=eps, activation=act)
        if found.arch is None:
            arch = replace(arch, name=kind.of(arch.kind).name_of(arch))
    elif arch.kind == "resnet" and arch.detail("stem", "imagenet") != stem:
        arch = replace(arch, details=tuple(sorted({**dict(arch.details), "stem": stem}.items())))
    return Completed(arch=arch, mean=mean, std=std, notes=notes)


def sized(arch: Arch, found: Converted) -> Arch:
    """The architecture of the tensors with the size that the file or its configuration tells, where they do not."""
    if found.arch is not None:
        return arch
    net = kind.of(arch.kind)
    if found.pool is not None:
        arch = replace(arch, pool=found.pool)
    size = found.img_size if found.img_size is not None else found.stated.get("img_size")
    if not net.sized_by_tensors and isinstance(size, int) and size > 0:
        arch = replace(arch, img_size=size)
        if arch.kind == "swin" and found.img_size is not None:
            arch = replace(arch, details=tuple(sorted((*arch.details, ("fixed", True)))))
    return arch


def check_stated(arch: Arch, found: Converted, path: Path) -> None:
    """Raises: CheckpointError: the configuration beside the file states another net than the tensors."""
    other = [
        f"{name} {value} (the tensors: {getattr(arch, name)})"
        for name, value in found.stated.items()
        if getattr(arch, name) != value
    ]
    if other:
        raise CheckpointError(
            wanted="a config.json of these tensors",
            got=", ".join(other),
            where=path,
            do="use the configuration that the weights were saved with",
        )


def _check_tensors(arch: Arch, options: ReadOptions, path: Path) -> None:
    """Raises: CheckpointError: a flag that contradicts the tensors."""
    wrong: dict[str, tuple[str, str]] = {}
    if arch.kind == "resnet" and options.stem and arch.detail("stem", "imagenet") not in ("", options.stem):
        small = arch.detail("stem", "imagenet") == ""
        wrong["--stem"] = (options.stem, "a stem of 3 x 3" if small else "a stem of 7 x 7, imagenet's")
    if arch.kind == "resnet" and options.stem == "imagenet" and arch.detail("stem", "imagenet") == "":
        wrong["--stem"] = (options.stem, "a stem of 3 x 3: cifar or cifar-pad2")
    by_name = kind.of(arch.kind).built_by_name
    if not by_name and arch.num_heads and options.num_heads not in (None, arch.num_heads):
        wrong["--num-heads"] = (str(options.num_heads), f"{arch.num_heads} heads")
    for flag, (got, there) in wrong.items():
        wanted, where = f"{there}, as in the tensors", f"{flag}, {path}"
        raise CheckpointError(wanted=wanted, got=got, where=where, do=f"leave {flag} out")


def _heads(dim: int, found: Converted, options: ReadOptions) -> tuple[int, tuple[str, ...]]:
    """(heads, or 0 where nothing fixes them; notes on hints of the file)."""
    notes: tuple[str, ...] = ()
    hint = HINTS.get(found.hint_arch or "")
    if hint and hint[0] != dim:
        notes = (
            f"the file calls itself {found.hint_arch} ({hint[0]} wide) but its tensors are {dim} wide: hint set aside",
        )
        hint = None
    heads = options.num_heads or found.num_heads or (hint and hint[1])
    if hint and heads != hint[1]:
        notes += (f"the file calls itself {found.hint_arch} ({hint[1]} heads), --num-heads says {heads}: taken",)
    if not heads and (heads := found.heads_of_width.get(dim)):
        notes += (f"heads are not stored: {heads}, as in the family's published nets {dim} wide",)
    return heads or 0, notes


def _check_contradictions(arch: Arch, found: Converted, options: ReadOptions, path: Path, catalogued: str) -> None:
    """A flag completes what a file states and may not contradict it. Raises: SettingsError."""
    stated: Mapping[str, object] = {}
    source = ""
    by_name = kind.of(arch.kind).built_by_name
    if found.arch is not None or by_name:
        source = f"{path} states"
        stated = {"num_heads": arch.num_heads, "norm_eps": arch.norm_eps} if arch.kind != "pixels" else {}
    if found.arch is not None:
        stated = {**stated, "mean": found.mean, "std": found.std}
    elif catalogued:
        source = f"the catalogue states of {catalogued}"
        heads = None if by_name else found.heads_of_width.get(arch.embed_dim)
        stated = {**stated, "num_heads": heads, "norm_eps": found.norm_eps, "mean": found.mean, "std": found.std}
    for name, value in stated.items():
        given, flag = getattr(options, name), ASKED[name][1].partition(" ")[0]
        if None not in (given, value) and given != value:
            wanted = f"{_spelled(value)}, as {source}"
            raise SettingsError(wanted=wanted, got=_spelled(given), where=flag, do=f"leave {flag} out")


def _question(
    missing: list[str], arch: Arch, options: ReadOptions, path: Path, *, family: str, notes: tuple[str, ...]
) -> CheckpointError:
    """The error that asks for all that is missing, with a command made of what was given and of examples."""
    dim = arch.embed_dim
    examples = {
        "num_heads": _example_heads(dim),
        "norm_eps": 1e-6,
        "activation": "quickgelu",
        "stem": "cifar",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
    values = {**options.given(), **{name: examples[name] for name in missing}}
    flags = " ".join(f"--{name.replace('_', '-')} {_spelled(value)}" for name, value in values.items())
    got = "a file that does not say"
    if "num_heads" in missing and dim not in STANDARD_HEADS:
        got = f"a net {dim} wide, which is no standard width"
    got += f" ({notes[0]})" if notes else ""
    do = [f"pass {' '.join(ASKED[name][1] for name in missing)}, as in the code that trained the net"]
    if "num_heads" in missing and dim == 384:
        do.append("most nets 384 wide have 6 heads, but MoCo-v3's have 12")
    if "activation" in missing:
        do.append("OpenAI's weights have quickgelu, LAION's and DataComp's gelu")
    if "stem" in missing:
        do.append("cifar: stride 1, padding 1, no maxpool; cifar-pad2: the same with padding 2, solo-learn's")
    if family == "flat":
        do.append("if DINO's or iBOT's own code trained it, pass --family dino or --family ibot instead")
    # Last, since a short message leaves out from the end.
    do.append(f"for example, each value to be checked: evaltk inspect {shlex.quote(str(path))} {flags}")
    names = [ASKED[name][0] for name in missing]
    wanted = ", ".join(names[:-1]) + (" and " if names[1:] else "") + names[-1]
    return CheckpointError(wanted=f"{wanted}, which tensors do not contain", got=got, where=path, do="; ".join(do))


def _example_heads(dim: int) -> int:
    """The customary number of a standard width, else the divisor of the width nearest to 64 channels per head."""
    divisors = [n for n in range(1, dim + 1) if dim % n == 0]
    return STANDARD_HEADS.get(dim) or min(divisors, key=lambda n: abs(n - dim / 64))


def _spelled(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, int | float) else shlex.quote(str(value))
