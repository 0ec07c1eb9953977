"""timm: a flat state dict of a timm classifier, and `timm:NAME`, with weights of timm's own cache or download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import torch

from evaltk.checkpoints import conversion, diagnose, nets, timm_folder, timm_training
from evaltk.checkpoints.families import Family, flat
from evaltk.checkpoints.rawfile import Converted, RawFile
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.checkpoints.redirects import open_url
from evaltk.errors import CheckpointError, DownloadError, SettingsError, nearest
from evaltk.models import kind as kinds
from evaltk.types import IMAGENET_MEAN, IMAGENET_STD, OriginProof

TIMEOUT_S = 10.0


def claims(raw: RawFile) -> bool:
    """A net that still has its class head, or one in a folder whose configuration names timm's architecture."""
    if "architecture" in raw.config:
        return bool(raw.nets)
    return flat.unmarked(raw) and any(conversion.has_class_head(net) for net in raw.nets)


def convert(raw: RawFile, options: ReadOptions) -> Converted:
    """The net without its class head.

    A folder of the hub states all of it, and a file of timm's train.py most. Nothing in another file fixes heads,
    LayerNorm's epsilon or the pixel statistics (MoCo-v3 and DeiT write it too): they are asked for, as of a file
    without a class head (`flat`).
    """
    net = nets.choose(raw.nets, options, raw.path)
    rename = flat.rename_of(net)
    if "architecture" in raw.config:
        return timm_folder.convert(raw, net, rename)
    facts = {**flat.pixels(raw, net), **timm_training.stated(raw, rename(net.tensors).weights)}
    return conversion.converted(raw, net, rename, origin_proof=OriginProof.NONE, **facts)


def from_name(name: str, options: ReadOptions) -> Converted:
    """A pretrained timm model by name, with the pixel statistics of its own configuration.

    Raises: SettingsError: no such name. CheckpointError: a net of another kind, or no weights in reach.
    """
    import timm

    base, tagged, _ = name.partition(".")
    if not timm.is_model(base) or (tagged and name not in timm.list_pretrained(f"{base}*")):
        near = nearest(base, timm.list_models()).partition("there are: ")[0]
        do = f"{near}timm.list_models() and list_pretrained() show the names"
        raise SettingsError(wanted="a timm model", got=repr(name), where="timm:NAME", do=do)
    problem = _unreachable()
    try:
        if problem and not at_hand(name):  # else huggingface_hub tries for a minute, and says so line by line
            raise OSError(problem)
        with offline() if problem else nullcontext():
            model: Any = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        raise CheckpointError(
            wanted=f"weights of timm:{name}",
            got=str(error).splitlines()[0][:160] if str(error) else type(error).__name__,
            where="timm's cache and download",
            do="run once with a network, or name a weight file",
        ) from error
    return from_model(model, name)


def _unreachable() -> str:
    """Why the hub does not answer; empty where it does."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "the hub is switched off (HF_HUB_OFFLINE, --offline)"
    try:
        open_url(constants.ENDPOINT, {}, TIMEOUT_S).close()
    except HTTPError:  # any answer will do
        return ""
    except (OSError, HTTPException, DownloadError) as error:
        return f"no answer from {constants.ENDPOINT}: {getattr(error, 'reason', error)}"
    return ""


def at_hand(name: str) -> bool:
    """Whether `from_name` needs no download: the weights lie in a cache, or there are none and it will say so."""
    import huggingface_hub
    from timm.models import get_pretrained_cfg, is_model

    config = get_pretrained_cfg(name) if is_model(name.partition(".")[0]) else None
    if config is None or not config.has_weights:
        return True
    if config.hf_hub_id:
        repo, _, revision = config.hf_hub_id.partition("@")
        files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        found = [huggingface_hub.try_to_load_from_cache(repo, file, revision=revision or None) for file in files]
        return any(isinstance(path, str) for path in found)  # otherwise None, or a mark that the repository lacks it
    return not config.url or (Path(torch.hub.get_dir()) / "checkpoints" / config.url.rpartition("/")[2]).exists()


@contextmanager
def offline() -> Iterator[None]:
    """No look at the hub meanwhile: what its cache has is used as it is, and the cache stays as it is."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def from_model(model: Any, name: str) -> Converted:
    """A timm model in memory: a ViT of the standard kind, a ResNet or an XCiT. Raises: CheckpointError: any other."""
    weights = {k: t.detach().clone() for k, t in model.state_dict().items()}
    kind = kinds.recognise(weights)
    if kind is None:
        raise CheckpointError(
            wanted="a standard ViT, ResNet or XCiT",
            got=type(model).__name__,
            where=f"timm:{name}",
            do="name another model",
        )
    where = Path(f"timm:{name}")
    arch = kind.of_model(kind.read(weights, where), model)
    diagnose.check(weights, kind.shapes(arch), {}, where)
    timm_folder.verify(model, arch, weights, where)
    config = model.pretrained_cfg
    mean, std = tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD))
    # The architecture is stated in full, so that flags cannot contradict the model.
    view = timm_folder.view(config)
    return Converted(weights=weights, branch="backbone", arch=arch, mean=mean, std=std, position="size_aa", view=view)


FAMILY = Family(name="timm", claims=claims, convert=convert, scheme="timm", from_name=from_name)
