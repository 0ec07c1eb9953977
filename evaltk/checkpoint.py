"""Load a weight file safely: exactly one family claims it, and every tensor is used, dropped by name, or an error."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch

from evaltk import catalog, families, rawfile
from evaltk.errors import CheckpointError, SettingsError, nearest
from evaltk.models import layout, timm_nets
from evaltk.rawfile import Converted, RawFile, ReadOptions
from evaltk.types import Arch, Checkpoint, canonical

Triple = tuple[float, float, float]


def load_checkpoint(
    path: str | Path,
    *,
    branch: str | None = None,
    num_heads: int | None = None,
    norm_eps: float | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    family: str | None = None,
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a file, a catalogue name that was fetched, `timm:NAME`, `random:ARCH[@SEED]` or `pixels:SIZE`.
        branch: which copy of the net (``teacher``, ``student``, ``target_encoder``, ``encoder``); default: the paper's.
        num_heads, norm_eps, mean, std: what tensors do not tell; needed only where nothing else fixes it.
        family: the family to read the file as, where two could.

    Returns: the checkpoint, its tensors float32 on the CPU and finite.
    Raises: CheckpointError, SettingsError: with what was wanted, what came, and the flag or step that mends it.
    """
    options = ReadOptions(branch=branch, family=family, num_heads=num_heads, norm_eps=norm_eps, mean=mean, std=std)
    modules = families.load()
    scheme, _, rest = str(path).partition(":")
    named = {m.SCHEME: (name, m) for name, m in modules.items() if hasattr(m, "SCHEME")}
    if rest and scheme in named and not Path(path).exists():
        name, module = named[scheme]
        where = Path(str(path))
        return _finish(name, module.from_name(rest, options), options, where, sha256="", name=str(path))
    where = resolve(path)
    raw = rawfile.read(where)
    name, module = _claimant(raw, modules, options)
    return _finish(name, module.convert(raw, options), options, where, sha256=raw.sha256, name=_name(path))


def resolve(path: str | Path) -> Path:
    """The file a path or catalogue name stands for. Raises: CheckpointError: a catalogue name not fetched yet."""
    file = Path(path)
    if not file.exists() and str(path) in (known := catalog.load()):
        file = catalog.local_path(known[str(path)])
        if not file.exists():
            raise CheckpointError(
                wanted=f"the fetched file of {path}", got="none", where=file, do=f"run: evaltk fetch {path}"
            )
        catalog.verify(file, str(path))
    return file


def _claimant(raw: RawFile, modules: Mapping[str, ModuleType], options: ReadOptions) -> tuple[str, ModuleType]:
    readers = {name: m for name, m in modules.items() if hasattr(m, "claims")}
    if options.family:
        if options.family not in readers:
            do = nearest(options.family, readers)
            raise SettingsError(wanted="a checkpoint family", got=repr(options.family), where="--family", do=do)
        return options.family, readers[options.family]
    claims = [name for name, module in readers.items() if module.claims(raw)]
    if len(claims) == 1:
        return claims[0], readers[claims[0]]
    if claims:
        raise CheckpointError(
            wanted="a layout that one family has", got=f"one that {' and '.join(claims)} share", where=raw.path,
            do=f"pass --family {' or --family '.join(claims)}",
        )  # fmt: skip
    raise CheckpointError(
        wanted=f"a layout of {', '.join(readers)}", got=_seen(raw), where=raw.path, do=_nearest_layout(raw)
    )


def _seen(raw: RawFile) -> str:
    top = {k: v for k, v in raw.tree.items() if not isinstance(v, torch.Tensor)}
    patterns: dict[str, tuple[int, ...]] = {}
    for key, tensor in rawfile.walk(raw.tree):
        patterns.setdefault(rawfile.pattern(key), tuple(tensor.shape))
    first = ", ".join(f"{k} {s}" for k, s in list(patterns.items())[:12])
    entries = f"entries {', '.join(map(str, list(top)[:8]))}; " if top else ""
    more = f" and {len(patterns) - 12} more kinds" if len(patterns) > 12 else ""
    return f"{entries}{sum(1 for _ in rawfile.walk(raw.tree))} tensors ({first or 'none'}{more})"


def _nearest_layout(raw: RawFile) -> str:
    keys = [re.sub(r"^(\w+\.)?(module\.|backbone\.|encoder\.)*", "", k, count=1) for k, _ in rawfile.walk(raw.tree)]
    keys += [k for k, _ in rawfile.walk(raw.tree)]
    arch = Arch(name="", patch_size=16, embed_dim=384, depth=1, num_heads=6, mlp_ratio=4.0, img_size=224, norm_eps=1e-6)
    vit = list(layout.vit_shapes(arch))
    shared, known = layout.similarity(keys, vit)
    if not shared:
        return "rename the keys to timm's or DINO's names; nothing in the file resembles them"
    lacking = sorted({rawfile.pattern(k) for k in vit} - {rawfile.pattern(k) for k in keys})
    return (
        f"nearest is a flat ViT in DINO's or timm's names ({shared} of {known} kinds of key shared; "
        f"lacking {', '.join(lacking)}): rename the file's keys to those"
    )


def _finish(family: str, found: Converted, options: ReadOptions, path: Path, *, sha256: str, name: str) -> Checkpoint:
    arch, weights, notes = _architecture(found, options, path)
    mean, std = options.mean or found.mean, options.std or found.std
    if mean is None or std is None:
        raise CheckpointError(
            wanted="the pixel mean and std the net was trained with", got="a file that does not tell them", where=path,
            do="pass --mean R G B and --std R G B, of [0, 1] (ImageNet's: 0.485 0.456 0.406 and 0.229 0.224 0.225)",
        )  # fmt: skip
    _check_finite(weights, found, path)
    weights = {k: t.float() if t.is_floating_point() else t for k, t in weights.items()}
    return Checkpoint(
        name=name,
        family=family,
        branch=found.branch,
        arch=arch,
        weights=weights,
        head=found.head,
        mean=mean,
        std=std,
        sha256=sha256,
        digest=weights_digest(weights, arch),
        origin=str(path),
        dropped=found.dropped,
        epoch=found.epoch,
        notes=found.notes + notes,
    )


def _architecture(found: Converted, options: ReadOptions, path: Path) -> tuple[Arch, dict, tuple[str, ...]]:
    weights, arch = dict(found.weights), found.arch
    notes: tuple[str, ...] = ()
    kind = arch.kind if arch else layout.kind_of(weights)
    if kind == "pixels" and arch:
        return arch, weights, ()
    if kind == "vit":
        if arch is None:
            arch, notes = layout.read_vit(found, options, path)
        if found.hint_patch not in (None, arch.patch_size):
            notes += (f"the file says patch {found.hint_patch}, its tensors {arch.patch_size}: hint set aside",)
        shapes = layout.vit_shapes(arch)
        if "mask_token" in weights:
            shapes["mask_token"] = (1, arch.embed_dim)
    elif kind in ("resnet", "xcit"):
        if kind == "resnet":
            arch = arch or timm_nets.read_resnet(weights, path)
        else:
            arch = arch or timm_nets.read_xcit(weights, path)
            weights = timm_nets.rename_xcit(weights, arch.name)
        shapes = timm_nets.shapes(arch.name)
    else:
        known = dict.fromkeys(layout.VIT_KEYS, ())
        layout.check(weights, known, found.unexpected, path)
        raise CheckpointError(wanted="a ViT, ResNet or XCiT", got="none of them", where=path, do="name another file")
    layout.check(weights, shapes, found.unexpected, path)
    return arch, weights, notes


def _check_finite(weights: Mapping[str, torch.Tensor], found: Converted, path: Path) -> None:
    head = found.head.tensors if found.head else {}
    for key, tensor in (*weights.items(), *((f"head.{k}", t) for k, t in head.items())):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                wanted="finite weights", got=f"{count} of {tensor.numel()} values NaN or infinite in {key}", where=path,
                do="use a checkpoint from before the training diverged",
            )  # fmt: skip


def weights_digest(weights: Mapping[str, torch.Tensor], arch: Arch) -> str:
    """sha256 over architecture, names, shapes and float32 bytes: equal nets have equal digests whatever their file.

    The mask token and the architecture's display name take no part in features and are left out.
    """
    state = hashlib.sha256(canonical({k: v for k, v in asdict(arch).items() if k != "name"}).encode())
    if arch.kind != "vit":
        state.update(arch.name.encode())
    for key in sorted(weights):
        if key == "mask_token":
            continue
        tensor = weights[key].contiguous()
        state.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        state.update(tensor.numpy().reshape(-1).view("uint8").data)
    return state.hexdigest()


def _name(path: str | Path) -> str:
    base = Path(path).name
    return re.sub(r"(\.pth\.tar|\.pth|\.pt|\.tar|\.safetensors|\.bin|\.ckpt)$", "", base) or base
