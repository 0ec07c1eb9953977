"""Why a file cannot be used, in words: what its tensors lack of a net, and what an unclaimed file resembles most."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import torch

from evaltk.checkpoints.names.renamed import Rename
from evaltk.checkpoints.rawfile import Source, pattern, walk
from evaltk.errors import CheckpointError, some
from evaltk.models import vit_layout
from evaltk.types import Arch

Tensors = Mapping[str, torch.Tensor]

NUMBERED = re.compile(r"(?:^|\.)(?:blocks|layers?|resblocks|layer[1-4])\.(\d+)\.")
NOTHING = torch.empty(0)
TABLE = "rel_pos_bias.relative_position_bias_table"
KEYS = {  # by which a kind of net is recognised
    "ViT": vit_layout.KEYS,
    "BEiT": (TABLE, "patch_embed.proj.weight", "blocks.0.gamma_1", "blocks.0.attn.q_bias", "blocks.0.attn.qkv.weight"),
    "ResNet": ("conv1.weight", "layer1.0.conv1.weight", "bn1.weight"),
    "Swin": (
        "patch_embed.proj.weight",
        "layers.0.blocks.0.attn.relative_position_bias_table",
        "patch_embed.norm.weight",
    ),
}
# Names that no other block and no other half tells of.
SINGLE = (
    *("embeddings.cls_token", "embeddings.position_embeddings", "embeddings.register_tokens", "class_embedding"),
    *("positional_embedding", "embeddings.class_embedding", "embeddings.position_embedding.weight", "register_tokens"),
    *("storage_tokens", "rope_embed.periods", "embeddings.patch_embeddings.projection.weight"),
    *("encoder.relative_position_bias.relative_position_bias_table", "embeddings.patch_embeddings.weight"),
    *("embeddings.patch_embedding.weight", "patch_embed.projection.weight", "conv1.weight", "0.weight", "head.probe"),
)
SHOWN = 6  # missing names for which the nearest is looked up
DO = "name the right --branch or --family, or save the net's own state_dict"
# Any ViT: only its names are compared.
NAMES = Arch(name="", patch_size=16, embed_dim=384, depth=1, num_heads=6, mlp_ratio=4.0, img_size=224, norm_eps=1e-6)
UNSUPPORTED = {  # kinds of nets that are common and not known here; the first that fits
    "an EfficientNet or MobileNet": re.compile(  # before ConvNeXt, whose conv_dw it has, too
        r"conv_pwl?\.weight|features\.\d+\.conv\.\d|features\.\d+\.\d+\.block\.\d+\.\d+\.weight"
    ),
    "a ConvNeXt": re.compile(r"(dwconv|conv_dw)\.weight|features\.\d+\.\d+\.layer_scale"),
    "a VGG or AlexNet": re.compile(r"^(module\.)?features\.\d+\.weight"),
    "a DenseNet": re.compile(r"denseblock1\.denselayer1\."),
    "a RegNet": re.compile(r"block1-0\.|trunk_output\."),
}
TEACHER = re.compile(r"(^|[._])(teacher|ema|target)", re.I)
KINDS = 12  # of keys that a description names
PLACES = 32  # prefixes that are tried
RESEMBLES = 0.3  # share of a ViT's kinds of key from which on it is worth naming


def check(
    weights: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    extra: Tensors,
    path: Path,
    source: Source | None = None,
) -> None:
    """Every expected tensor is there in its shape, and no other.

    Args:
        extra: tensors that no rule of the family names.
        source: the net in its file's names.

    Raises: CheckpointError: listing what is missing, left over and of another shape, with the nearest names.
    """
    missing = [key for key in shapes if key not in weights]
    left = {key: tuple(t.shape) for key, t in weights.items() if key not in shapes}
    left |= {key: tuple(t.shape) for key, t in extra.items()}
    wrong = [
        f"{key} {tuple(weights[key].shape)} for {shape}"
        for key, shape in shapes.items()
        if key in weights and tuple(weights[key].shape) != shape
    ]
    if not (missing or left or wrong):
        return
    near = _near(missing, left)
    parts = {
        "missing": [f"{key} {shapes[key]}{near.get(key, '')}" for key in missing],
        "unexpected": [f"{key} {shape}" for key, shape in left.items()],
        "other shapes:": wrong,
    }
    got = "; ".join(f"{what} {some(names)}" for what, names in parts.items() if names)
    if source is not None:
        shaped = [key.partition(" ")[0] for key in wrong]  # or their other halves, which they are measured by
        odd = [*missing, *left, *shaped, *_halves(dict.fromkeys(shaped, NOTHING))]
        got += in_own_names(source.tensors, source.rename, odd)
    raise CheckpointError(wanted=f"exactly the {len(shapes)} tensors of the net", got=got, where=path, do=DO)


def in_own_names(tensors: Tensors, rename: Rename, odd: Iterable[str]) -> str:
    """What to add to an error on the tensors `odd`, in timm's names: what the file calls them.

    A tensor that is missing has no name in the file. It is found by its siblings: the same name in another block, a
    weight without its bias.
    """
    wanted = set(odd)
    present = {ours: key for key in tensors for ours in _alone(rename, {key: tensors[key]}, tensors)}
    named = {key: present[key] for key in wanted if present.get(key, key) != key}
    lone = [key for key in (*SINGLE, *_halves(tensors)) if key not in tensors]
    lone = [key for key in lone if wanted & set(_alone(rename, {key: NOTHING}, tensors))]
    gaps = [key for key in dict.fromkeys([*lone, *_gaps(tensors)]) if key not in wanted][:SHOWN]
    told = ([f"without {some(gaps)}"] if gaps else []) + ([some(sorted(named.values()))] if named else [])
    return f" (in the file's own names: {'; '.join(told)})" if told else ""


def in_file(error: CheckpointError, source: Source | None) -> CheckpointError:
    """The error with the file's own names of the tensors that it speaks of."""
    if source is None:
        return error
    tensors, rename = source.tensors, source.rename
    known = dict.fromkeys(SINGLE, NOTHING) | dict(tensors)
    told = {ours for key, tensor in known.items() for ours in _alone(rename, {key: tensor}, tensors)}
    odd = [key for key in sorted(told) if re.search(rf"(^|[\s(,]){re.escape(key)}([\s,.;]|$)", error.got)]
    more = in_own_names(tensors, rename, odd)
    return CheckpointError(wanted=error.wanted, got=error.got + more, where=error.where, do=error.do)


def _alone(rename: Rename, one: Tensors, tensors: Tensors) -> list[str]:
    """What one tensor is renamed to by itself, beside the tables of positions, which some names hang on."""
    tables = {key: t for key, t in tensors.items() if "position_bias_table" in key and key not in one}
    try:
        with_tables, without = rename({**tables, **one}).weights, rename(tables).weights
    except (CheckpointError, RuntimeError, IndexError):
        return []
    return [key for key in with_tables if key not in without]


def _gaps(tensors: Tensors) -> list[str]:
    """Names that are not there, though the same name is in other blocks."""
    numbers: dict[str, set[str]] = {}
    for key in tensors:
        if match := NUMBERED.search(key):
            numbers.setdefault(f"{key[: match.start(1)]}|{key[match.end(1) :]}", set()).add(match[1])
    alike: dict[str, set[str]] = {}
    for place, found in numbers.items():
        alike.setdefault(place.partition("|")[0], set()).update(found)
    return [
        place.replace("|", number)
        for place, found in numbers.items()
        for number in sorted(alike[place.partition("|")[0]] - found)
    ]


def _halves(tensors: Tensors) -> list[str]:
    """The other half of every weight and every bias."""
    found = [re.fullmatch(r"(.*[._])(weight|bias)", key) for key in tensors]
    return [match[1] + ("bias" if match[2] == "weight" else "weight") for match in found if match]


def refuse(weights: Tensors, extra: Tensors, path: Path, source: Source | None = None) -> NoReturn:
    """Raises: CheckpointError: the tensors of a branch belong to no net that is known; says what a ViT would need."""
    there = [*weights, *extra]
    nearest_kind, keys = max(KEYS.items(), key=lambda kind: sum(key in weights for key in kind[1]) / len(kind[1]))
    near = _near([key for key in keys if key not in weights], there)
    lacking = ", ".join(f"{key}{hint}" for key, hint in near.items())
    got = f"{len(there)} tensors ({some(there)}), as a {nearest_kind} lacking {lacking}"
    if source is not None:
        apart = [key for key in weights if re.search(r"\.(query|key|value|[qkv]_proj)\.", key)]  # could not be joined
        got += in_own_names(source.tensors, source.rename, [*near, *apart])
    raise CheckpointError(wanted="a net of a kind known here", got=got, where=path, do=DO)


def _near(missing: list[str], there: Iterable[str]) -> dict[str, str]:
    """What to add to each missing name that is shown: the nearest name there is, if any is near."""
    options = list(there)
    found = {key: difflib.get_close_matches(key, options, n=1, cutoff=0.6) for key in missing[:SHOWN]}
    return {key: f" (nearest there: {near[0]})" if near else "" for key, near in found.items()}


def seen(tree: Mapping[str, object]) -> str:
    """The tree in a line: its entries that are no tensors, and its kinds of key with a shape each."""
    entries = [repr(key)[:40] for key, value in tree.items() if not isinstance(value, torch.Tensor)]
    kinds: dict[str, tuple[int, ...]] = {}
    total = 0
    for key, tensor in walk(tree):
        kinds.setdefault(pattern(key), tuple(tensor.shape))
        total += 1
    told = some([f"{key[:80]} {shape}" for key, shape in kinds.items()], KINDS) or "none"
    return (f"entries {some(entries, 8)}; " if entries else "") + f"{total} tensors ({told})"


def nearest(tree: Mapping[str, object]) -> str:
    """What to do with the tree: the layout it resembles most, and what it lacks of that."""
    vit = {pattern(key) for key in vit_layout.shapes_of(NAMES)}
    shared, place = _best(tree, vit)
    keys = [key for key, _ in walk(tree)]
    if not keys:
        return "save the net with its weights, torch.save(model.state_dict(), 'net.pth'), in the code that trained it"
    if any(key.endswith("linear.weight") for key in keys) and not shared:
        return "this is a linear classifier on top of features, not a net: name the net's own file"
    other = next((name for name, marks in UNSUPPORTED.items() if any(marks.search(key) for key in keys)), None)
    if other and len(shared) < RESEMBLES * len(vit):
        return (
            f"this looks like {other}, which is not read from files: pass the net itself to evaltk.evaluate in Python"
        )
    if len(shared) < RESEMBLES * len(vit):
        return f"name a file with a net of a kind known here ({', '.join(KEYS)}, CLIP, XCiT) and all of its tensors"
    lacking = sorted(vit - shared)
    if not lacking:
        return f"a whole ViT lies under {place!r}: {_alone_by(tree, place)}"
    under = f" under {place!r}" if place else ""
    return (
        f"nearest is a flat ViT in DINO's or timm's names ({len(shared)} of {len(vit)} kinds of key shared{under}; "
        f"lacking {', '.join(lacking)}): rename the file's keys to those"
    )


def _alone_by(tree: Mapping[str, object], place: str) -> str:
    """How to save what lies under a prefix by itself: as the dict that it is, or without the prefix."""
    at: object = tree
    names = place.split(".") if place else []
    taken = 0
    while taken < len(names) and isinstance(at, Mapping) and names[taken] in at:
        at, taken = at[names[taken]], taken + 1
    of = "".join(f"[{name!r}]" for name in names[:taken])
    rest = ".".join(names[taken:])
    if not rest:
        return f"torch.save(tree{of}, 'net.pth')"
    cut = f"{{k.removeprefix('{rest}.'): v for k, v in tree{of}.items() if k.startswith('{rest}.')}}"
    return f"torch.save({cut}, 'net.pth')"


def _best(tree: Mapping[str, object], kinds: set[str]) -> tuple[set[str], str]:
    """(the kinds shared, the prefix they share it under) of the prefix that shares most; prefixes end in a dot."""
    keys = [pattern(key) for key, _ in walk(tree)]
    prefixes = {""} | {m.group() for key in keys if (m := re.match(r"(.*\.)?(?=blocks\.N\.|cls_token$)", key))}
    found = {p: kinds & {key.removeprefix(p) for key in keys if key.startswith(p)} for p in sorted(prefixes)[:PLACES]}
    # Of copies that share as much, the one that is customarily evaluated.
    best = max(found, key=lambda p: (len(found[p]), bool(TEACHER.search(p)), -len(p)))
    return found[best], best.removesuffix(".")
