"""Where the nets of a file lie: the entry that holds their tensors and the prefix before their names.

A file is unwrapped (``model``, ``state_dict``, ``teacher`` ...), wrappers' names are dropped from keys (``module``,
``_orig_mod``), and every prefix is found under which the names of a known layout stand. Families decide by what is
there whose net it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import CheckpointError, some

# Of DistributedDataParallel, torch.compile, FSDP, activation checkpointing and Fabric, anywhere in a key.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
DEPTH = 6  # of entries in entries
# Entries that hold tensors, but no net.
NO_NETS = re.compile(
    r"opt|optim\w*|.*optimizer.*|lr_scheduler\w*|param_schedulers|callbacks|loops|amp\w*|\w*scaler\w*|hyper_parameters"
    r"|args|config|meta|message_hub|\w*loss\w*|meters|heads|predictor|decoder"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Names by which a net is found: all of `marks`, or, in a file that lacks one, most of `marks` and `more`."""

    name: str
    marks: tuple[str, ...]
    more: tuple[str, ...] = ()


LAYOUTS = (
    Layout("vit", ("patch_embed.proj.weight", "blocks.0.norm1.weight"), ("blocks.0.attn.qkv.weight", "norm.weight")),
    Layout("conv_vit", ("patch_embed.proj.0.weight", "blocks.0.norm1.weight"), ("blocks.0.attn.qkv.weight",)),
    Layout("chunked_vit", ("patch_embed.proj.weight", "blocks.0.0.norm1.weight"), ("blocks.0.0.attn.qkv.weight",)),
    Layout("xcit", ("cls_attn_blocks.0.norm1.weight", "blocks.0.norm1.weight")),
    Layout("swin", ("patch_embed.proj.weight", "layers.0.blocks.0.norm1.weight"), ("patch_embed.norm.weight",)),
    Layout("resnet", ("conv1.weight", "layer1.0.conv1.weight"), ("bn1.weight", "layer4.0.conv1.weight")),
    Layout("sequential_resnet", ("0.weight", "4.0.conv1.weight"), ("1.running_mean", "7.0.conv1.weight")),
    Layout(
        "hf",
        ("embeddings.patch_embeddings.projection.weight", "encoder.layer.0.attention.attention.query.weight"),
        ("encoder.layer.0.attention.attention.value.weight", "encoder.layer.0.attention.output.dense.weight"),
    ),
    Layout(
        "hf5",
        ("embeddings.patch_embeddings.projection.weight", "layers.0.attention.q_proj.weight"),
        ("layers.0.attention.v_proj.weight", "layers.0.attention.o_proj.weight"),
    ),
    Layout(
        "hf5_encoder",
        ("embeddings.patch_embeddings.projection.weight", "encoder.layer.0.attention.q_proj.weight"),
        ("encoder.layer.0.attention.v_proj.weight", "encoder.layer.0.attention.o_proj.weight"),
    ),
    Layout(
        "hf_dinov3",
        ("embeddings.patch_embeddings.weight", "layer.0.attention.q_proj.weight"),
        ("layer.0.attention.v_proj.weight", "layer.0.attention.o_proj.weight"),
    ),
    Layout(
        "hf_dinov3_5",
        ("embeddings.patch_embeddings.weight", "model.layer.0.attention.q_proj.weight"),
        ("model.layer.0.attention.v_proj.weight", "model.layer.0.attention.o_proj.weight"),
    ),
    Layout(
        "hf_clip",
        ("embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight"),
        ("post_layernorm.weight", "embeddings.position_embedding.weight"),
    ),
    Layout(
        "hf_swin",
        ("embeddings.patch_embeddings.projection.weight", "encoder.layers.0.blocks.0.layernorm_before.weight"),
        ("encoder.layers.0.blocks.0.layernorm_after.weight", "embeddings.norm.weight"),
    ),
    Layout(
        "clip",
        ("conv1.weight", "transformer.resblocks.0.ln_1.weight"),
        ("ln_pre.weight", "ln_post.weight", "class_embedding"),
    ),
    Layout(
        "tv_vit",
        ("conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight"),
        ("class_token", "encoder.pos_embedding", "encoder.ln.weight"),
    ),
    Layout("mm_vit", ("patch_embed.projection.weight", "layers.0.ln1.weight"), ("layers.0.attn.qkv.weight",)),
)
# Of two copies, the one that the original evaluates stands first.
CUSTOM = (
    ("teacher", "student"),
    ("teacher_backbone", "student_backbone"),
    ("target_encoder", "encoder"),  # I-JEPA, MSN
    ("base_encoder", "momentum_encoder"),  # MoCo-v3
    ("encoder_q", "encoder_k"),  # MoCo
    ("encoder", "encoder_k"),  # MoBY
    ("encoder", "momentum_encoder"),
    ("backbone", "momentum_backbone"),  # solo-learn
    ("backbone", "backbone_momentum"),  # lightly
    ("backbone", "momentum_encoder"),  # MMSelfSup
    ("online_network", "target_network"),  # BYOL
    ("online_encoder", "target_encoder"),
    ("state_dict", "state_dict_ema"),  # timm
    ("model", "model_ema"),
)
BRANCHES = frozenset(word for pair in CUSTOM for word in pair)


@dataclass(frozen=True, slots=True)
class Net:
    """One net of a file.

    Attributes:
        layout: name of the `Layout` that its names are of.
        entry: keys from the top of the file to the dict that holds it.
        prefix: what stands before its names there, wrappers dropped, with its last dot.
        tensors: {name without prefix: tensor}, everything under the prefix.
        beside: {name: tensor} of the same dict that are not under the prefix.
        branch: the word that tells it from other copies, ``backbone`` where there are none.
    """

    layout: str
    entry: tuple[str, ...]
    prefix: str
    tensors: Mapping[str, torch.Tensor]
    beside: Mapping[str, torch.Tensor]
    branch: str = "backbone"

    @property
    def words(self) -> tuple[str, ...]:
        """All words on the way to it."""
        return (*self.entry, *self.prefix.split(".")[:-1])


def find(tree: Mapping[str, object]) -> tuple[Net, ...]:
    """Every net of a known layout in the file, each with the word that tells it from the others."""
    found = [net for entry, flat in _dicts(tree, ()) for net in _nets(entry, flat)]
    labels = _labels([net.words for net in found])
    return tuple(
        Net(net.layout, net.entry, net.prefix, net.tensors, net.beside, branch)
        for net, branch in zip(found, labels, strict=True)
    )


def choose(nets: Sequence[Net], options: ReadOptions, path: Path) -> Net:
    """The net asked for by `--branch`, else the only one, else the one that the original evaluates.

    Raises: CheckpointError: no such branch, or several of which none is customary.
    """
    names = [net.branch for net in nets]
    if options.branch is not None:
        wanted = [net for net in nets if net.branch == options.branch]
        if len(nets) == 1 and not wanted:
            raise CheckpointError(
                wanted=f"a file with the branch {options.branch!r}",
                got=f"a file that holds one net only ({names[0]})",
                where=path,
                do="leave --branch out, or name the full training checkpoint",
            )
        if len(wanted) != 1:
            raise CheckpointError(
                wanted=f"a branch of this file ({', '.join(names)})",
                got=repr(options.branch),
                where=path,
                do=f"--branch {' or --branch '.join(names)}",
            )
        return wanted[0]
    if len(nets) == 1:
        return nets[0]
    best = [n for n in nets if all(n is other or (n.branch, other.branch) in CUSTOM for other in nets)]
    if len(best) != 1:
        raise CheckpointError(
            wanted="one net, or copies of which one is customarily evaluated",
            got=f"{len(nets)} nets ({some(names)})",
            where=path,
            do=f"--branch {' or --branch '.join(names)}",
        )
    return best[0]


def unwrapped(key: str) -> str:
    """The key without the names of wrappers."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _dicts(tree: Mapping[str, object], entry: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict]]:
    """(keys to it, its tensors without wrappers' names) of each dict with tensors that may hold a net."""
    flat: dict[str, torch.Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, torch.Tensor):
            short = unwrapped(str(key))
            if short in flat:
                got = f"two that are both {short!r} once wrappers' names are dropped"
                raise CheckpointError(
                    wanted="one tensor a key",
                    got="a number and its text as keys" if short == str(key) else got,
                    where=".".join((*entry, str(key))),
                    do="save one net a file",
                )
            flat[short] = value
    if flat:
        yield entry, flat
    for key, value in tree.items():
        if isinstance(value, Mapping) and len(entry) < DEPTH and not NO_NETS.fullmatch(str(key)):
            yield from _dicts(value, (*entry, str(key)))


def _nets(entry: tuple[str, ...], flat: Mapping[str, torch.Tensor]) -> Iterator[Net]:
    """The nets of one dict: all of a layout's marks, or failing that the prefix that has most of one's names."""
    roots = [(prefix, layout) for layout in LAYOUTS for prefix in _roots(flat, layout, len(layout.marks), layout.marks)]
    near = sorted(_near(flat), key=lambda found: (-found[2], len(found[0])))
    if not roots:
        roots = [(prefix, layout) for prefix, layout, _ in near[:1]]
    for prefix, layout, _ in near:
        # A copy that lacks one of its marks is still the one to be read, and refused for what it lacks.
        within = any(prefix.startswith(root) for root, _ in roots)
        if not within and prefix.rpartition(".")[0].rpartition(".")[2] in BRANCHES:
            roots.append((prefix, layout))
    for prefix, layout in roots:
        inside = {key.removeprefix(prefix): t for key, t in flat.items() if key.startswith(prefix)}
        beside = {key: t for key, t in flat.items() if not key.startswith(prefix)}
        yield Net(layout.name, entry, prefix, inside, beside)


def _near(flat: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, Layout, float]]:
    """(prefix, layout, share of the layout's names under it) of every prefix that has more than half of them."""
    for layout in LAYOUTS:
        names = (*layout.marks, *layout.more)
        for prefix in _roots(flat, layout, 2, names):
            share = sum(prefix + name in flat for name in names) / len(names)
            if share > 0.5:
                yield prefix, layout, share


def _roots(flat: Mapping[str, torch.Tensor], layout: Layout, least: int, names: tuple[str, ...]) -> list[str]:
    """Prefixes under which at least `least` of the names stand."""
    prefixes: dict[str, int] = {}
    for name in names:
        for key in flat:
            if key == name or key.endswith("." + name):
                prefix = key[: len(key) - len(name)]
                prefixes[prefix] = prefixes.get(prefix, 0) + 1
    return [prefix for prefix, times in prefixes.items() if times >= least]


def _labels(ways: Sequence[tuple[str, ...]]) -> list[str]:
    """The word that tells each way from the others: a customary one, else all of it."""
    if len(ways) == 1:
        known = [word for word in ways[0] if word in BRANCHES - {"model", "state_dict", "backbone"}]
        return [known[-1] if known else "backbone"]
    labels = []
    for way in ways:
        others = [other for other in ways if other is not way]
        own = [word for word in way if any(word not in other for other in others)]
        known = [word for word in own if word in BRANCHES]
        labels.append(known[-1] if known else ".".join(own or way) or "backbone")
    return labels
