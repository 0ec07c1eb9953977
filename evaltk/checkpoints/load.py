"""Load a weight file safely: exactly one family claims it, and every tensor is used, dropped by name, or an error."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from evaltk.checkpoints import catalog, diagnose, families, foreign, locate, rawfile, unstated
from evaltk.checkpoints.families import Family
from evaltk.checkpoints.locate import Located
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import Activation, ReadOptions, Stem, Triple
from evaltk.errors import CheckpointError, SettingsError, nearest
from evaltk.models import heads, kind
from evaltk.types import Arch, Checkpoint, OriginProof, canonical

COUNT = "num_batches_tracked"
Convert = Callable[[RawFile, ReadOptions], Converted]


def load_checkpoint(
    path: str | Path,
    *,
    branch: str | None = None,
    num_heads: int | None = None,
    norm_eps: float | None = None,
    activation: Activation | None = None,
    stem: Stem | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    family: str | None = None,
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a file, a folder with config.json, a catalogue name that was fetched, `hf:ORG/NAME[@REVISION]`,
            `timm:NAME`, `random:ARCH[@SEED]` or `pixels:SIZE`.
        branch: which copy of the net (``teacher``, ``student``, ``encoder_k`` ...); default: the one that the original
            evaluates.
        num_heads, norm_eps, activation, stem, mean, std: what tensors do not tell; needed where nothing else does.
            `activation` is of the MLPs; `stem` of a ResNet: ``imagenet``, ``cifar`` (3x3, stride 1, padding 1, no
            maxpool) or ``cifar-pad2`` (padding 2, solo-learn's).
        family: read the file as this family's, with the values of its published nets.

    Returns: the checkpoint, its tensors float32 on the CPU and finite.
    Raises: CheckpointError, SettingsError: with what was wanted, what came, and the flag or step to take.
    """
    return load(
        path,
        ReadOptions(
            branch=branch,
            family=family,
            num_heads=num_heads,
            norm_eps=norm_eps,
            activation=activation,
            stem=stem,
            mean=mean,
            std=std,
        ),
    )


def load(path: str | Path, options: ReadOptions) -> Checkpoint:
    """`load_checkpoint` with its options in one value. Raises: as that."""
    options.check()
    known = families.load()
    scheme, colon, rest = str(path).partition(":")
    for name, member in known.items():
        if member.from_name is not None and colon and scheme == member.scheme and not locate.exists(Path(path)):
            converted = member.from_name(rest, options)
            return _finish(converted, options, Path(str(path)), name=str(path), family=name)
    file = locate.locate(path)
    return of_file(rawfile.read(file), file, options, known)


def of_file(raw: RawFile, file: Located, options: ReadOptions, known: Mapping[str, Family]) -> Checkpoint:
    """The checkpoint in an opened file.

    Args:
        known: families by name.

    Raises: CheckpointError, SettingsError: as `load_checkpoint`.
    """
    pinned = [catalog.pinned(sha) for sha in file.weights or (file.sha256,)]
    entry = next((one for one in pinned if one is not None), None)
    name, convert = _claimant(raw, known, options, entry)
    found = convert(raw, options)
    if entry is not None and entry.family == name:
        found = _particular(found, entry)
    claimed = not options.family or _claims(raw, known) == [name]
    proof = _origin_proof(found, entry, name, claimed=claimed, said=bool(options.family))
    found = dataclasses.replace(found, origin_proof=proof)
    if options.branch not in (None, found.branch):
        raise CheckpointError(
            wanted=f"a file with the branch {options.branch!r}",
            got=f"a file that holds one net only ({found.branch})",
            where=file.path,
            do="leave --branch out, or name the full training checkpoint",
        )
    catalogued = entry.name if entry and entry.family == name else ""
    checkpoint = _finish(
        found,
        options,
        file.path,
        sha256=file.sha256,
        name=file.name,
        family=name,
        catalogued=catalogued,
        skipped=raw.skipped,
        origin=raw.origin,
    )
    arch = catalog.load()[file.name].arch if file.catalogued else ""
    if arch and checkpoint.arch.name != arch:
        wanted = f"{arch}, as the catalogue says of {file.name}"
        do = "leave the flags out, or delete the file and fetch it"
        raise CheckpointError(wanted=wanted, got=checkpoint.arch.name, where=file.path, do=do)
    return checkpoint


def _claimant(
    raw: RawFile, known: Mapping[str, Family], options: ReadOptions, entry: catalog.Entry | None
) -> tuple[str, Convert]:
    """The family the user names, else the catalogue's for these bytes, else the one that recognises the layout."""
    readers = {name: family.convert for name, family in known.items() if family.convert is not None}
    if options.family:
        if options.family not in readers:
            do = nearest(options.family, readers)
            raise SettingsError(wanted="a checkpoint family", got=repr(options.family), where="--family", do=do)
        return options.family, readers[options.family]
    if entry is not None and entry.family in readers:
        return entry.family, readers[entry.family]
    claims = _claims(raw, known)
    if len(claims) == 1:
        return claims[0], readers[claims[0]]
    if claims:
        raise CheckpointError(
            wanted="a layout that one family has",
            got=f"one that {' and '.join(claims)} share",
            where=raw.path,
            do=f"pass --family {' or --family '.join(claims)}",
        )
    if (other := foreign.describe(raw.tree)) is not None:
        what, do = other
        raise CheckpointError(wanted="a vision net", got=what, where=raw.path, do=do)
    wanted, do = f"a layout of {', '.join(readers)}", diagnose.nearest(raw.tree)
    raise CheckpointError(wanted=wanted, got=diagnose.seen(raw.tree), where=raw.path, do=do)


def _particular(found: Converted, entry: catalog.Entry) -> Converted:
    """`found` with what the catalogue states of this very file and its tensors do not tell."""
    values = {name: getattr(entry, name) for name in ("num_heads", "activation", "mean", "std")}
    return dataclasses.replace(found, **{name: value for name, value in values.items() if value})


def _claims(raw: RawFile, known: Mapping[str, Family]) -> list[str]:
    claims = [name for name, family in known.items() if family.claims is not None and family.claims(raw)]
    return [name for name in claims if not known[name].generic] or claims


def _origin_proof(
    found: Converted, entry: catalog.Entry | None, family: str, *, claimed: bool, said: bool
) -> OriginProof:
    """The best proof there is that the weights are of their family: known bytes, the layout, else the user's word.

    Args:
        entry: the catalogue's of these bytes. said: the user named the family.
        claimed: this family alone recognises the layout, which proves nothing otherwise.
    """
    if entry is not None and entry.family == family:
        return OriginProof.SHA256
    if claimed and found.origin_proof is not OriginProof.NONE:
        return found.origin_proof
    return OriginProof.USER if said else OriginProof.NONE


def _finish(
    found: Converted,
    options: ReadOptions,
    path: Path,
    *,
    name: str,
    family: str,
    sha256: str = "",
    catalogued: str = "",
    skipped: tuple[str, ...] = (),
    origin: str = "",
) -> Checkpoint:
    arch, weights = _architecture(found, path)
    weights = {key: _number(key, tensor, path) for key, tensor in weights.items()}
    if found.head:
        heads.check(found.head, path, width=arch.embed_dim)
        for key, tensor in found.head.tensors.items():
            _number(f"head.{key}", tensor, path)
        if found.head.center is not None:
            _number("the head's centre", found.head.center, path)
    whole = unstated.complete(arch, found, options, path, family=family, catalogued=catalogued)
    return Checkpoint(
        name=name,
        family=family,
        branch=found.branch,
        arch=whole.arch,
        weights=weights,
        head=found.head,
        mean=whole.mean,
        std=whole.std,
        sha256=sha256,
        digest=weights_digest(weights, whole.arch),
        origin=origin or str(path),
        dropped=found.dropped,
        epoch=found.epoch,
        trained_seed=found.trained_seed,
        origin_proof=found.origin_proof,
        catalogued=catalogued,
        notes=found.notes + whole.notes,
        position=found.position,
        view=found.view,
        linear=found.linear,
        container=found.container,
        skipped=skipped,
    )


def _architecture(found: Converted, path: Path) -> tuple[Arch, dict[str, torch.Tensor]]:
    """(what the tensors or the file tell of the net, its weights), each tensor there in its shape and no other."""
    stated = found.arch.kind if found.arch else found.kind
    net = kind.of(stated) if stated else kind.recognise(found.weights)
    if net is None:
        diagnose.refuse(found.weights, found.unexpected, path, found.source)
    weights = net.rename(found.weights)
    try:
        read = net.settle(found.arch, weights, path)
    except CheckpointError as error:
        raise diagnose.in_file(error, found.source) from error
    arch = unstated.sized(read, found)
    shapes = net.shapes(arch) | {k: shape for k, shape in net.optional(arch).items() if k in weights}
    if not any(key.endswith(COUNT) for key in weights):
        # All of them are absent from files of torch before 0.4.1; they are no part of evaluation.
        weights |= {key: torch.zeros((), dtype=torch.long) for key in shapes if key.endswith(COUNT)}
    diagnose.check(weights, shapes, found.unexpected, path, found.source)
    unstated.check_stated(arch, found, path)
    return arch, weights


def _number(key: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    """The tensor as float32 (BatchNorm's count stays whole). Raises: CheckpointError: no float, or not finite."""
    if key.endswith(COUNT):
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
    state = hashlib.sha256(canonical(arch.identity()).encode())
    if kind.of(arch.kind).built_by_name:
        state.update(arch.name.encode())
    for key in sorted(weights):
        if key == "mask_token":
            continue
        tensor = weights[key].contiguous()
        state.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        state.update(tensor.numpy().reshape(-1).view("uint8").data)
    return state.hexdigest()
