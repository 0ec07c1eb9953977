"""`random:ARCH` (and `random:ARCH@SEED`): untrained weights, the floor that every figure must beat."""

from __future__ import annotations

import dataclasses
import re

import torch

from evaltk.checkpoints.families import Family
from evaltk.checkpoints.rawfile import Converted
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.errors import SettingsError
from evaltk.models import kind, vit_layout
from evaltk.seeding import derive, generator, normal
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, Arch

NUMBER = "([0-9]{1,5})"
SPELLED = re.compile(f"vit_patch{NUMBER}_dim{NUMBER}_depth{NUMBER}_heads{NUMBER}_img{NUMBER}")
STANDARD = re.compile(f"vit_(tiny|small|base|large)_patch{NUMBER}_{NUMBER}")
LARGEST = 4e9  # parameters, of what is drawn; ViT-G has 1.8e9
FORM = "vit_{tiny,small,base,large}_patchP_IMG, vit_patchP_dimD_depthL_headsH_imgI, or a ResNet or XCiT of timm"


def parse(name: str) -> Arch | None:
    """The ViT a name spells out (``vit_small_patch16_224``, ``vit_patch2_dim64_depth4_heads4_img16``), or None."""
    if match := STANDARD.fullmatch(name):
        (dim, depth), patch, img = _size(match[1]), int(match[2]), int(match[3])
        heads = vit_layout.STANDARD_HEADS[dim]
    elif match := SPELLED.fullmatch(name):
        patch, dim, depth, heads, img = (int(g) for g in match.groups())
    else:
        return None
    if min(patch, dim, depth, heads, img) < 1 or dim % heads or img % patch:
        raise SettingsError(
            wanted="sizes where heads divide dim and patch divides img",
            got=name,
            where="random:ARCH",
            do="e.g. random:vit_small_patch16_224",
        )
    if 12 * depth * dim**2 + dim * (img // patch) ** 2 + 3 * dim * patch**2 > LARGEST:
        raise SettingsError(wanted="a net that fits", got=name, where="random:ARCH", do="spell a smaller one")
    arch = Arch(
        name="",
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=4.0,
        img_size=img,
        norm_eps=1e-6,
    )
    return dataclasses.replace(arch, name=vit_layout.name_of(arch))


def from_name(rest: str, options: ReadOptions) -> Converted:
    """Weights drawn as DINO draws them: normal of std 0.02, biases 0, LayerNorm 1 and 0. (DINO's are cut at 2, which is
    100 times that and never reached.) They are the same bits on every processor, for the cache is named by them.

    Source: dino/vision_transformer.py:160-172. Raises: SettingsError: a name that spells no net.
    """
    name, seeded, seed = rest.partition("@")
    if seeded and not re.fullmatch("[0-9]{1,18}", seed):
        raise SettingsError(
            wanted="a whole number after @",
            got=repr(seed),
            where=f"random:{rest}",
            do="e.g. random:vit_small_patch16_224@1",
        )
    fixed = {
        "position": "dino",
        "norm_eps": 1e-6,
        "mean": options.mean or IMAGENET_MEAN,
        "std": options.std or IMAGENET_STD,
    }
    arch = parse(name)
    if arch:
        draw = generator(int(seed or 0), "random", arch.name)
        weights = {key: _draw(key, shape, draw) for key, shape in vit_layout.shapes_of(arch).items()}
        # The name says nothing of eps: the flag may.
        arch = dataclasses.replace(arch, norm_eps=options.norm_eps or arch.norm_eps)
        return Converted(branch="backbone", weights=weights, arch=arch, **fixed)  # type: ignore[arg-type]
    seed_of_net = derive(int(seed or 0), "random", name)
    drawn = (net.random_weights(name, seed_of_net) for net in kind.kinds().values())
    found = next((weights for weights in drawn if weights is not None), None)
    if found is None:
        raise SettingsError(wanted=FORM, got=repr(name), where="random:ARCH", do="e.g. random:vit_small_patch16_224")
    return Converted(branch="backbone", weights=found, **fixed)  # type: ignore[arg-type]


def _size(word: str) -> tuple[int, int]:
    return next(size for size, name in vit_layout.STANDARD_NAMES.items() if name == word)


def _draw(key: str, shape: tuple[int, ...], draw: torch.Generator) -> torch.Tensor:
    if "norm" in key or key.endswith(".bias"):
        return torch.ones(shape) if key.endswith("weight") else torch.zeros(shape)
    return normal(*shape, std=0.02, generator=draw)


FAMILY = Family(name="random", scheme="random", from_name=from_name)
