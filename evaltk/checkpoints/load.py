"""Load a weight file safely: exactly one family claims it, and every tensor is used, dropped by name, or an error."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from evaltk import files
from evaltk.checkpoints import catalog, difference, families, layout, rawfile, resemblance
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.rawfile import Converted, RawFile, ReadOptions
from evaltk.errors import CheckpointError, SettingsError, nearest
from evaltk.models import heads, timm_nets
from evaltk.types import Arch, Checkpoint, OriginProof, canonical

Triple = tuple[float, float, float]
Convert = Callable[[RawFile, ReadOptions], Converted]


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
    rawfile.check_options(options)
    known = families.load()
    scheme, colon, rest = str(path).partition(":")
    for name, member in known.items():
        if member.from_name is not None and colon and scheme == member.scheme and not rawfile.exists(Path(path)):
            found = member.from_name(rest, options)
            return _finish(name, found, options, Path(str(path)), sha256="", name=str(path))
    where = resolve(path)
    raw = rawfile.read(where)
    name, convert = _claimant(raw, known, options)
    found = convert(raw, options)
    claimed = not options.family or _claims(raw, known) == [name]
    proof = _origin_proof(found, raw, name, claimed=claimed, said=bool(options.family))
    found = dataclasses.replace(found, origin_proof=proof)
    if branch not in (None, found.branch):
        raise CheckpointError(
            wanted=f"a file with the branch {branch!r}", got=f"a file that holds one net only ({found.branch})",
            where=where, do="leave --branch out, or name the full training checkpoint",
        )  # fmt: skip
    checkpoint = _finish(name, found, options, where, sha256=raw.sha256, name=files.weights_name(Path(path)))
    if where != Path(path) and checkpoint.arch.name != (arch := catalog.load()[str(path)].arch):
        wanted, do = f"{arch}, as the catalogue says of {path}", "leave the flags out, or delete the file and fetch it"
        raise CheckpointError(wanted=wanted, got=checkpoint.arch.name, where=where, do=do)
    return checkpoint


def resolve(path: str | Path) -> Path:
    """The file a path or catalogue name stands for. Raises: CheckpointError: a catalogue name not fetched yet."""
    file = Path(path)
    if rawfile.exists(file):
        return file
    known = catalog.load()
    if str(path) in known:
        file = catalog.local_path(known[str(path)])
        if not file.exists():
            raise CheckpointError(
                wanted=f"the fetched file of {path}", got="none", where=file, do=f"run: evaltk fetch {path}"
            )
        catalog.verify(file, str(path))
    elif re.fullmatch(r"\w+", str(path)):  # no path looks like this, a mistyped name does
        do = f"{nearest(str(path), known)}; or name a file"
        raise CheckpointError(wanted="a file or a catalogue name", got=repr(str(path)), where="CHECKPOINT", do=do)
    return file


def _claimant(raw: RawFile, known: Mapping[str, Family], options: ReadOptions) -> tuple[str, Convert]:
    readers = {name: family.convert for name, family in known.items() if family.convert is not None}
    if options.family:
        if options.family not in readers:
            do = nearest(options.family, readers)
            raise SettingsError(wanted="a checkpoint family", got=repr(options.family), where="--family", do=do)
        return options.family, readers[options.family]
    claims = _claims(raw, known)
    if len(claims) == 1:
        return claims[0], readers[claims[0]]
    if claims:
        raise CheckpointError(
            wanted="a layout that one family has", got=f"one that {' and '.join(claims)} share", where=raw.path,
            do=f"pass --family {' or --family '.join(claims)}",
        )  # fmt: skip
    wanted, do = f"a layout of {', '.join(readers)}", resemblance.nearest(raw.tree)
    raise CheckpointError(wanted=wanted, got=resemblance.seen(raw.tree), where=raw.path, do=do)


def _claims(raw: RawFile, known: Mapping[str, Family]) -> list[str]:
    return [name for name, family in known.items() if family.claims is not None and family.claims(raw)]


def _origin_proof(found: Converted, raw: RawFile, family: str, *, claimed: bool, said: bool) -> OriginProof:
    """The best proof there is that the weights are of their family: known bytes, the layout, else the user's word.

    Args:
        claimed: this family alone recognises the layout, which proves nothing otherwise. said: the user named it.
    """
    entry = catalog.pinned(raw.sha256)
    if entry is not None and entry.family == family:
        return OriginProof.SHA256
    if claimed and found.origin_proof is not OriginProof.NONE:
        return found.origin_proof
    return OriginProof.USER if said else OriginProof.NONE


def _finish(family: str, found: Converted, options: ReadOptions, path: Path, *, sha256: str, name: str) -> Checkpoint:
    arch, weights, notes = _architecture(found, options, path)
    _check_said(arch, options, path)
    mean, std = options.mean or found.mean, options.std or found.std
    if mean is None or std is None:
        raise CheckpointError(
            wanted="the pixel mean and std the net was trained with", got="a file that does not tell them", where=path,
            do="pass --mean R G B and --std R G B, of [0, 1] (ImageNet's: 0.485 0.456 0.406 and 0.229 0.224 0.225)",
        )  # fmt: skip
    weights = {key: _number(key, tensor, path) for key, tensor in weights.items()}
    if found.head:
        heads.check(found.head, path, width=arch.embed_dim)
        for key, tensor in found.head.tensors.items():
            _number(f"head.{key}", tensor, path)
        if found.head.center is not None:
            _number("the head's centre", found.head.center, path)
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
        trained_seed=found.trained_seed,
        origin_proof=found.origin_proof,
        notes=found.notes + notes,
    )


def _check_said(arch: Arch, options: ReadOptions, path: Path) -> None:
    """What the user says may complete what the file or name says, not contradict it."""
    for flag, said, told in (
        ("--num-heads", options.num_heads, arch.num_heads),
        ("--norm-eps", options.norm_eps, arch.norm_eps),
    ):
        if said not in (None, told) and arch.kind != "pixels":
            raise SettingsError(
                wanted=f"{told:g}, as {path} states", got=f"{said:g}", where=flag, do=f"leave {flag} out"
            )


def _architecture(found: Converted, options: ReadOptions, path: Path) -> tuple[Arch, dict, tuple[str, ...]]:
    """(architecture, weights in its names, notes), each of its tensors there in its shape and no other."""
    weights, arch = dict(found.weights), found.arch
    notes: tuple[str, ...] = ()
    kind = arch.kind if arch else layout.kind_of(weights)
    if kind is None:
        difference.refuse(weights, found.unexpected, path)
    if kind == "vit":
        if arch is None:
            arch, notes = layout.read_vit(found, options, path)
        shapes = layout.vit_shapes(arch)
        if "mask_token" in weights:
            shapes["mask_token"] = (1, arch.embed_dim)
    elif kind == "pixels" and arch:
        shapes = {}
    else:
        read = timm_nets.read_resnet if kind == "resnet" else timm_nets.read_xcit
        arch = timm_nets.same(arch, read(weights, path), path)
        weights = timm_nets.rename_xcit(weights) if kind == "xcit" else weights
        shapes = timm_nets.shapes(arch.name)
    difference.check(weights, shapes, found.unexpected, path)
    return arch, weights, notes


def _number(key: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    """The tensor as float32 (BatchNorm's count stays whole). Raises: CheckpointError: no float, or not finite."""
    if key.endswith("num_batches_tracked"):
        return tensor
    if not tensor.is_floating_point():
        do = "save the net's own float weights"
        raise CheckpointError(wanted="float weights", got=f"{tensor.dtype} in {key}", where=path, do=do)
    single = tensor.float()  # after which what overflows float32 is infinite
    finite = torch.isfinite(single)
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise CheckpointError(
            wanted="finite weights", got=f"{count} of {tensor.numel()} values NaN or infinite in {key}", where=path,
            do="use a checkpoint from before the training diverged",
        )  # fmt: skip
    return single


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
