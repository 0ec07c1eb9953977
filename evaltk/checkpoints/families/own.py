"""The project's own files: safetensors made by `evaltk convert`, and the checkpoints that `pretrain` writes.

A converted file holds `weights.*` and `head.*` tensors and, in its metadata under ``evaltk``, JSON with everything
else a Checkpoint has. A training checkpoint has DINO's, iBOT's or MSN's layout (so that other loaders read it) plus
``evaltk_format`` and ``config``, a JSON text that states method, architecture and pixel statistics.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from evaltk.checkpoints import state_dicts
from evaltk.checkpoints.families import Family, dino, ibot, msn
from evaltk.checkpoints.rawfile import Converted, RawFile, tensors
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import CheckpointError, printable
from evaltk.models import kind
from evaltk.types import Arch, Checkpoint, HeadWeights, OriginProof

FORMAT = 1
TINY = 1e-6  # least standard deviation of pixels; what divides by less is no image statistic
METHODS = {"dino": dino, "ibot": ibot, "msn": msn}
# Entries that only our training writes; the rest of the layout is the method's own.
REST = ("evaltk_format", "config", "progress")


def claims(raw: RawFile) -> bool:
    """Our mark is in the metadata or in the tree."""
    return "evaltk" in raw.metadata or "evaltk_format" in raw.tree


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """What the file states of itself. Raises: CheckpointError: a newer format, or a damaged statement."""
    try:
        if "evaltk" in raw.metadata:
            return _converted_file(raw, json.loads(raw.metadata["evaltk"]))
        return _training_file(raw, options)
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
    }
    return packed, {"evaltk": json.dumps(statement, sort_keys=True)}


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
    kind = said["head"]
    if kind not in (None, *METHODS):
        raise ValueError(f"a head of kind {kind!r}")
    parts = ("weights.", "head.") if kind else ("weights.",)
    center = "head_center" if kind else None
    head = {k.removeprefix("head."): t for k, t in flat.items() if k.startswith("head.")}
    return Converted(
        branch=printable(str(said["branch"])),
        weights={k.removeprefix("weights."): t for k, t in flat.items() if k.startswith("weights.")},
        head=_said(HeadWeights(kind=kind, tensors=head, center=flat.get("head_center")), said) if kind else None,
        unexpected={k: t for k, t in flat.items() if not k.startswith(parts) and k != center},
        arch=_arch(said["arch"], len(flat)),
        mean=_triple(said["mean"]),
        std=_triple(said["std"], TINY),
        epoch=state_dicts.whole(said["epoch"]),
        trained_seed=state_dicts.whole(said.get("trained_seed")),
        origin_proof=_origin_proof(said),
        notes=tuple(printable(str(note)) for note in said["notes"]),
    )


def _origin_proof(said: Mapping) -> OriginProof:
    """What was known when the file was converted; files from before that was written down have the branch alone."""
    if "origin_proof" in said:
        return OriginProof(said["origin_proof"])
    known = (*dino.BRANCHES, *msn.BRANCHES)
    return OriginProof.LAYOUT if said["branch"] in known else OriginProof.NONE


def _training_file(raw: RawFile, options: ReadOptions) -> Converted:
    _check_format(raw.tree["evaltk_format"], raw)
    config = json.loads(str(raw.tree["config"]))
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
        mean=_triple(config["mean"]),
        std=_triple(config["std"], TINY),
    )


def _arch(said: Mapping, num_tensors: int) -> Arch:
    """The architecture stated, in the types it is declared with: the digest of weights is taken over it.

    Raises: TypeError, ValueError: a field that is missing, left over, or of a value that no net has.
    """
    stated = Arch(**said)
    typed = {f.name: _typed(f.name, getattr(stated, f.name), str(f.type)) for f in dataclasses.fields(Arch)}
    arch = Arch(**typed)  # type: ignore[arg-type]
    sizes = (arch.patch_size, arch.embed_dim, arch.img_size // arch.patch_size if arch.patch_size > 0 else 0)
    sound = (
        arch.kind in kind.kinds()
        and min(sizes) > 0
        and 0 <= arch.depth <= max(num_tensors, 60)  # 60: blocks of the deepest ResNet
        and (arch.kind != "vit" or (arch.num_heads > 0 and arch.embed_dim % arch.num_heads == 0))
        and 0 < arch.norm_eps < 1
        and 0 <= arch.mlp_ratio < 1000
        and arch.registers >= 0
    )
    if not sound:
        raise ValueError(f"no net is {arch}")
    return arch


def _typed(name: str, value: object, kind: str) -> object:
    if kind == "float" and isinstance(value, int | float):
        return float(value)
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
