"""The project's own files: safetensors made by `evaltk convert`, and the checkpoints that `pretrain` writes.

A converted file holds `weights.*` and `head.*` tensors and, in its metadata under ``evaltk``, JSON with everything
else a Checkpoint has. A training checkpoint has DINO's, iBOT's or MSN's layout (so that other loaders read it) plus
``evaltk_format`` and ``config``, a JSON text that states method, architecture and pixel statistics.
"""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import get_args

import torch

from evaltk import checksums, safe_json
from evaltk.checkpoints import state_dicts
from evaltk.checkpoints.families import Family, dino, ibot, msn
from evaltk.checkpoints.rawfile import Converted, RawFile, tensors
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import CheckpointError, printable
from evaltk.models import kind
from evaltk.types import (
    Activation,
    Arch,
    Checkpoint,
    Detail,
    EvalView,
    HeadWeights,
    Interpolation,
    OriginProof,
    PositionRule,
    Recipe,
)

FORMAT = 1
TINY = 1e-6  # least standard deviation of pixels; what divides by less is no image statistic
METHODS = {"dino": dino, "ibot": ibot, "msn": msn}
# Entries that only our training writes; the rest of the layout is the method's own.
REST = ("evaltk_format", "config", "progress", "image_files")


def claims(raw: RawFile) -> bool:
    """Our mark is in the metadata or in the tree."""
    return "evaltk" in raw.metadata or "evaltk_format" in raw.tree


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """What the file states of itself. Raises: CheckpointError: a newer format, or a damaged statement."""
    try:
        if "evaltk" in raw.metadata:
            return _converted_file(raw, checksums.loads(raw.metadata["evaltk"]))
        if zipfile.is_zipfile(raw.path):
            checksums.check_zip(raw.path)
        return _training_file(raw, options)
    except checksums.Damaged as error:
        wanted, do = "a file as evaltk wrote it", "copy it again from its origin, or convert or train again"
        raise CheckpointError(wanted=wanted, got=f"a damaged one ({error})", where=raw.path, do=do) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            wanted="the statement that evaltk writes into its files",
            got=f"a damaged one ({type(error).__name__}: {error})",
            where=raw.path,
            do="convert or train again",
        ) from error


def pack(checkpoint: Checkpoint) -> tuple[dict, dict[str, str]]:
    """(tensors, metadata) of the safetensors file that holds this checkpoint."""
    head = checkpoint.head
    packed = {f"weights.{k}": t.contiguous().clone() for k, t in checkpoint.weights.items()}
    if head:
        packed |= {f"head.{k}": t.contiguous().clone() for k, t in head.tensors.items()}
        if head.center is not None:
            packed["head_center"] = head.center.contiguous().clone()
    statement = {
        "format": FORMAT,
        "name": checkpoint.name,
        "family": checkpoint.family,
        "branch": checkpoint.branch,
        "arch": dataclasses.asdict(checkpoint.arch),
        "head": head.kind if head else None,
        "scoring": head.scoring if head else None,
        "centering": head.centering if head else None,
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "epoch": checkpoint.epoch,
        "trained_seed": checkpoint.trained_seed,
        "source_sha256": checkpoint.sha256,
        "origin_proof": checkpoint.origin_proof,
        "notes": list(checkpoint.notes),
        "position": checkpoint.position,
        "view": dataclasses.asdict(checkpoint.view),
        "linear": dataclasses.asdict(checkpoint.linear) if checkpoint.linear else None,
        "container": checkpoint.container,
        "tensors_crc32": _checksum(packed),
    }
    return packed, {"evaltk": checksums.dumps(statement)}


def _checksum(flat: Mapping[str, torch.Tensor]) -> int:
    """CRC-32 of the bytes of all tensors, in the order of their names."""
    found = 0
    for name in sorted(flat):
        found = zlib.crc32(flat[name].contiguous().view(-1).view(torch.uint8).numpy(), found)
    return found


def _check_format(found: object, raw: RawFile) -> None:
    if found != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        raise CheckpointError(
            wanted=f"evaltk's file format {FORMAT}",
            got=f"format {found!r}",
            where=raw.path,
            do="install a newer evaltk" if newer else "convert or train again",
        )


def _converted_file(raw: RawFile, said: Mapping) -> Converted:
    _check_format(said["format"], raw)
    flat = tensors(raw.tree)
    if said.get("tensors_crc32", found := _checksum(flat)) != found:  # files of earlier versions do not state it
        raise checksums.Damaged("tensors: another checksum than when they were written")
    kind = said["head"]
    if kind not in (None, *METHODS, "swav"):
        raise ValueError(f"a head of kind {kind!r}")
    parts = ("weights.", "head.") if kind else ("weights.",)
    center = "head_center" if kind else None
    head = {k.removeprefix("head."): t for k, t in flat.items() if k.startswith("head.")}
    arch = _arch(said["arch"], len(flat))
    return Converted(
        branch=printable(str(said["branch"])),
        weights={k.removeprefix("weights."): t for k, t in flat.items() if k.startswith("weights.")},
        head=_said(HeadWeights(kind=kind, tensors=head, center=flat.get("head_center")), said) if kind else None,
        unexpected={k: t for k, t in flat.items() if not k.startswith(parts) and k != center},
        arch=arch,
        mean=_triple(said["mean"]),
        std=_triple(said["std"], TINY),
        epoch=state_dicts.whole(said["epoch"]),
        trained_seed=state_dicts.whole(said.get("trained_seed")),
        origin_proof=_origin_proof(said),
        notes=tuple(printable(str(note)) for note in said["notes"]),
        position=_position(said, arch),
        view=_view(said.get("view")),
        linear=_linear(said.get("linear")),
        container=printable(str(said.get("container", ""))),
    )


def _position(said: Mapping, arch: Arch) -> PositionRule | None:
    """The rule stated; of files older than the statement, that of the family that the file was converted from."""
    if "position" in said:
        if said["position"] not in (None, *get_args(PositionRule)):
            raise ValueError(f"position rule {said['position']!r}")
        rule: PositionRule | None = said["position"]
        return rule
    if arch.registers:
        return "size_aa"  # DINOv2's
    return "dino" if said["family"] in (*METHODS, "own") else None


def _view(said: Mapping | None) -> EvalView:
    """How the file says that images are made. Raises: TypeError, ValueError: no such way."""
    if said is None:
        return EvalView()
    view = EvalView(**said)
    sound = view.crop is None or (isinstance(view.crop, int) and 0 < view.crop < 10**5)
    if not (sound and 1 <= view.margin < 100 and view.interpolation in get_args(Interpolation)):
        raise ValueError(f"no view is {view}")
    return dataclasses.replace(view, margin=float(view.margin), square=bool(view.square))


def _linear(said: Mapping | None) -> Recipe | None:
    """The feature of the family's linear probe. Raises: TypeError, ValueError: none."""
    if said is None:
        return None
    recipe = Recipe(**said)
    if recipe.tokens not in ("cls", "mean", "cls+mean") or not 1 <= int(recipe.last) <= 1000:
        raise ValueError(f"no feature is {recipe}")
    return dataclasses.replace(recipe, norm=bool(recipe.norm))


def _origin_proof(said: Mapping) -> OriginProof:
    """What was known when the file was converted; files from before that was written down have the branch alone."""
    if "origin_proof" in said:
        return OriginProof(said["origin_proof"])
    known = (*dino.BRANCHES, *msn.BRANCHES)
    return OriginProof.LAYOUT if said["branch"] in known else OriginProof.NONE


def _training_file(raw: RawFile, options: ReadOptions) -> Converted:
    _check_format(raw.tree["evaltk_format"], raw)
    config = safe_json.parse(str(raw.tree["config"]))
    method = METHODS[config["method"]]
    inner = dataclasses.replace(raw, tree={k: v for k, v in raw.tree.items() if k not in REST})
    found = method.convert(inner, options)
    recipe = config.get("recipe", {})
    head = _said(found.head, recipe.get("method", {})) if found.head else None
    return dataclasses.replace(
        found,
        head=head,
        trained_seed=state_dicts.whole(recipe.get("run", {}).get("seed")),
        dropped=dict(found.dropped) | {k: "bookkeeping" for k in raw.tree if k in REST},
        arch=_arch(config["arch"], len(found.weights)),
        position="dino",
        mean=_triple(config["mean"]),
        std=_triple(config["std"], TINY),
    )


def _arch(said: Mapping, num_tensors: int) -> Arch:
    """The architecture stated, in the types it is declared with: the digest of weights is taken over it.

    Raises: TypeError, ValueError: a field that is missing, left over, or of a value that no net has.
    """
    stated = Arch(**{**said, "details": _details(said.get("details", ()))})
    typed = {f.name: _typed(f.name, getattr(stated, f.name), str(f.type)) for f in dataclasses.fields(Arch)}
    arch = Arch(**typed)  # type: ignore[arg-type]
    sizes = (arch.patch_size, arch.embed_dim, arch.img_size // arch.patch_size if arch.patch_size > 0 else 0)
    sound = (
        arch.kind in kind.kinds()
        and min(sizes) > 0
        and 0 <= arch.depth <= max(num_tensors, 60)  # 60: blocks of the deepest ResNet
        and (kind.of(arch.kind).built_by_name or arch.kind == "swin" or arch.embed_dim % max(arch.num_heads, 1) == 0)
        and (kind.of(arch.kind).built_by_name or arch.num_heads > 0)
        and arch.activation in get_args(Activation)
        and arch.pool in ("token", "avg", "map")
        and 0 < arch.norm_eps < 1
        and 0 <= arch.mlp_ratio < 1000
        and arch.registers >= 0
    )
    if not sound:
        raise ValueError(f"no net is {arch}")
    if not kind.of(arch.kind).built_by_name:
        kind.of(arch.kind).shapes(arch)  # raises where its details are no net's
    return arch


def _details(said: Sequence) -> tuple[tuple[str, Detail], ...]:
    """Details as they are declared. Raises: TypeError, ValueError: a value that none has."""
    found = []
    for name, value in said:
        plain = tuple(value) if isinstance(value, list | tuple) else value
        whole = isinstance(plain, tuple) and all(type(v) is int and 0 < v < 10**6 for v in plain) and len(plain) < 9
        if not (isinstance(name, str) and (whole or isinstance(plain, bool | int | float | str))):
            raise TypeError(f"detail {name!r} is {value!r}")
        found.append((printable(name), printable(plain) if isinstance(plain, str) else plain))
    return tuple(sorted(found))


def _typed(name: str, value: object, kind: str) -> object:
    if kind == "float" and isinstance(value, int | float):
        return float(value)
    if name == "details":
        return value
    if type(value).__name__ != kind:
        raise TypeError(f"{name} is {value!r}")
    return printable(value) if isinstance(value, str) else value


def _triple(said: Sequence, lowest: float = 0.0) -> tuple[float, float, float]:
    """Pixel statistics, R G B. Raises: TypeError, ValueError: no three numbers from `lowest` to 1."""
    red, green, blue = (float(v) for v in said)
    if not all(lowest <= v <= 1 for v in (red, green, blue)):
        raise ValueError(f"pixel statistics {said}")
    return red, green, blue


def _said(head: HeadWeights, said: Mapping) -> HeadWeights:
    """The head with what the file says of its training: how prototypes were scored, and in what space centred.

    Raises: ValueError: neither of the words there are.
    """
    scoring, centering = said.get("scoring"), said.get("centering")
    if scoring not in (None, "linear", "cosine", "vmf") or centering not in (None, "logit", "probability"):
        raise ValueError(f"scoring {scoring!r}, centering {centering!r}")
    return dataclasses.replace(head, scoring=scoring, centering=centering)


FAMILY = Family(name="own", claims=claims, convert=convert)
