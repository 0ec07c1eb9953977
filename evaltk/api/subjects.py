"""What is evaluated: a net or function in memory, a loaded checkpoint, or a file by its path or name."""

from __future__ import annotations

import multiprocessing
import pickle
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from torch import nn

from evaltk.api import preparing
from evaltk.api.preparing import NO_OPTIONS, Prepared, Spec
from evaltk.bench import Bench, ImageOptions
from evaltk.checkpoints.read_options import ReadOptions
from evaltk.data.callables import OwnTransform, noise
from evaltk.data.transforms import Transform, View
from evaltk.errors import ModelError, SettingsError
from evaltk.features.extraction import Extraction
from evaltk.machine import resolve_device
from evaltk.models import function, reached
from evaltk.progress import log
from evaltk.running import benching, runner
from evaltk.running.planning import Job, Plan
from evaltk.types import Arch, Checkpoint

if TYPE_CHECKING:
    from evaltk.models.backbone import Backbone

Model: TypeAlias = Checkpoint | str | Path | nn.Module | Callable[[torch.Tensor], Any]
FAMILY = "memory"
CLASS_HEADS = ("fc", "head", "classifier", "heads")  # of torchvision's and timm's classifiers
# Protocols that need more of a net than its features or tokens: what it is.
BEYOND = {
    "finetune": "a checkpoint whose ViT can be trained",
    "prototypes": "a checkpoint with its projection head and prototypes",
    "precision": "a checkpoint with its projection head and prototypes",
}
BATCH = {"cpu": 64, "cuda": 256}  # images at a time of a net whose size is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnBench(Bench):
    """A bench whose images a function of the user's prepares; None: as any other."""

    own: OwnTransform | None = None

    def transform(self, view: View = "eval") -> Transform:
        """The preprocessing of every view."""
        return super(OwnBench, self).transform(view) if self.own is None else cast(Transform, self.own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is evaluated.

    Attributes:
        name: in results. asked: what fixes its numbers, part of what identifies a result.
        word: its path or name; "" in memory. precision: of the forward pass, in results.
        options: sizes of images.
        ready: (plan, jobs) -> the net on its device. Called once, inside `evaluating`.
        kept: whether a finished result stands for another run: for files, which are identified in full.
    """

    name: str
    asked: Mapping[str, Any]
    word: str = ""
    options: ImageOptions = NO_OPTIONS
    ready: Callable[[Plan, Sequence[Job]], Bench]
    nets: tuple[nn.Module, ...] = ()
    kept: bool = True
    own: Mapping[str, Any] | None = None  # fields of the plan that the net itself decides

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Nets in memory are in eval mode inside, and as before afterwards."""
        with reached.evaluating(self.nets):
            yield


def of(model: Model, spec: Spec | None, *, name: str | None, device: str | None) -> Subject:
    """The subject that a user names. Raises: SettingsError, ModelError, CheckpointError, DownloadError."""
    if isinstance(model, Checkpoint):
        return _of_checkpoint(model, spec, name)
    if isinstance(model, str | Path):
        word = str(model)
        known, asked = runner.identify(word, ReadOptions())
        options = preparing.of_checkpoint(spec)
        return Subject(name=name or known, word=word, asked=asked, options=options, ready=runner.bench_of)
    if not callable(model):
        wanted = "an nn.Module, a function of images, a checkpoint or its path"
        raise ModelError(wanted=wanted, got=type(model).__name__, where="evaltk", do="evaltk.evaluate(model, data)")
    return _of_function(model, spec, name, device)


def _of_checkpoint(checkpoint: Checkpoint, spec: Spec | None, name: str | None) -> Subject:
    def ready(plan: Plan, jobs: Sequence[Job]) -> Bench:
        for job in jobs:
            runner.known_protocol(job.protocol).check_checkpoint(checkpoint)
        return runner.bench_with(plan, checkpoint, benching.device_of(plan, jobs))

    asked: dict[str, Any] = {"digest": checkpoint.digest, "sha256": checkpoint.sha256, "branch": checkpoint.branch}
    asked |= {"mean": list(checkpoint.mean), "std": list(checkpoint.std)}
    options = preparing.of_checkpoint(spec)
    # Not kept: its digest leaves out the head, which may be another in memory than in the file.
    return Subject(name=name or checkpoint.name, asked=asked, options=options, ready=ready, kept=False)


def _of_function(
    model: Callable[[torch.Tensor], Any], spec: Spec | None, name: str | None, device: str | None
) -> Subject:
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        model = model.module  # whose calls wait for other processes or devices
    nets = reached.modules(model)
    name = name or _name_of(model)
    prepared = preparing.of_model(nets[0] if len(nets) == 1 else model, spec, name)
    call = _calling(model, nets, name, device)
    weights = reached.digest(nets) if nets else ""
    view = prepared.view()
    code = {"code": reached.code_digest(model), "class": type(model).__qualname__}
    asked = {FAMILY: weights, **code, "transform": view.text(), "dtype": str(call.dtype)}

    def ready(plan: Plan, jobs: Sequence[Job]) -> Bench:
        probed = function.probe(call, _images(view))
        if nets and reached.digest(nets) != weights:
            do = "keep statistics, queues and counters as they are in eval mode"
            wanted, got = "weights and buffers that evaluation leaves alone", "a call that changes them"
            raise ModelError(wanted=wanted, got=got, where=name, do=do)
        checkpoint = _described(model, nets, name, prepared, probed, weights)
        _check_protocols(jobs, name, prepared, tokens=probed.grid != (0, 0))
        for note in checkpoint.notes:
            log.info("%s: %s", name, note)
        # Equal keys mean equal features, and what a function does with its net is not known.
        key = weights if isinstance(model, nn.Module) else f"{weights}{uuid.uuid4().hex}"
        net = function.FunctionNet(
            call, arch=checkpoint.arch, digest=key, tokens=probed.grid != (0, 0), precision=plan.precision
        )
        return OwnBench(
            checkpoint=checkpoint,
            backbone=cast("Backbone", net),
            device="cpu" if call.device.type == "mps" else str(call.device),
            seed=plan.seed,
            cache=plan.cache,
            images=plan.images,
            extraction=Extraction(
                batch_size=BATCH.get(call.device.type, BATCH["cpu"]) if plan.batch_size is None else plan.batch_size,
                workers=_workers(plan.workers, prepared.own),
                skip_bad_images=plan.skip_bad_images,
            ),
            own=prepared.own,
        )

    own = {"precision": _precision(call.dtype), "position": "own"}
    return Subject(name=name, asked=asked, options=prepared.options, ready=ready, nets=nets, kept=False, own=own)


def _name_of(model: object) -> str:
    config = getattr(model, "pretrained_cfg", None)
    architecture = config.get("architecture") if isinstance(config, Mapping) else None
    named = architecture or getattr(model, "__name__", type(model).__name__)
    return "function" if named == "<lambda>" else str(named)


def _calling(
    model: Callable[[torch.Tensor], Any], nets: Sequence[nn.Module], name: str, device: str | None
) -> function.Calling:
    """On the net's own device, in the type of its weights. Raises: SettingsError: another device is asked for."""
    found = list(reached.tensors(nets))
    where = found[0].device if found else None
    asked = None if device is None else torch.device(resolve_device(device))
    if where is not None and asked is not None and asked.type != where.type:
        do = f"model.to({device!r}) first, or leave device out: a net in memory stays where it is"
        raise SettingsError(wanted=f"the net's own device, {where}", got=str(asked), where="device", do=do)
    if where is not None and where.type == "meta":
        do = "load its weights first"
        raise ModelError(wanted="a net with weights", got="one on the device meta", where=name, do=do)
    floats = [t.dtype for t in found if t.is_floating_point()]
    return function.Calling(
        function=model,
        name=name,
        device=where or asked or torch.device("cpu"),
        dtype=floats[0] if floats else torch.float32,
        defaults=function.Defaults(),
    )


def _workers(asked: int | None, own: OwnTransform | None) -> int | None:
    """Decoding processes: none for a function that cannot be passed to them, unless they are forked."""
    if asked is not None or own is None:
        return asked
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    try:
        if method != "fork":
            pickle.dumps(own.function)
    except Exception:  # noqa: BLE001  # objects of any library raise errors of their own
        return 0
    return None


def _precision(dtype: torch.dtype) -> str:
    names = {torch.float32: "fp32", torch.float16: "fp16 weights", torch.bfloat16: "bf16 weights"}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def _images(view: Transform | OwnTransform) -> torch.Tensor:
    """[4, 3, H, W], to try a function out on."""
    pixels = torch.from_numpy(np.stack([view.pixels(image) for image in (*noise(), *noise())]))
    return view.normalise(pixels)


def _described(
    model: object, nets: Sequence[nn.Module], name: str, prepared: Prepared, probed: function.Probed, digest: str
) -> Checkpoint:
    """The net in memory as results describe checkpoints."""
    tokens = probed.grid != (0, 0)
    arch = Arch(
        name=type(model).__name__ if isinstance(model, nn.Module) else "function",
        kind=FAMILY,
        patch_size=prepared.side // probed.grid[0] if tokens else 0,
        embed_dim=probed.width,
        depth=0,
        num_heads=0,
        mlp_ratio=0.0,
        img_size=prepared.side,
        norm_eps=0.0,
    )
    notes = [prepared.note] if prepared.note else []
    if not nets:
        notes.append("a function without a net in sight: it is taken to be in eval mode, and its weights are not known")
    if isinstance(model, nn.Module) and (head := _class_head(model, probed.width)):
        notes.append(
            f"the features are the outputs of model.{head}, a class head; nn.Identity() there gives its inputs"
        )
        log.warning("%s: %s", name, notes[-1])
    return Checkpoint(
        name=name,
        family=FAMILY,
        branch="model" if nets else "function",
        arch=arch,
        weights={},
        head=None,
        mean=prepared.mean,  # type: ignore[arg-type]
        std=prepared.std,  # type: ignore[arg-type]
        sha256="",
        digest=digest,
        origin=f"{FAMILY}:{name}",
        notes=tuple(notes),
    )


def _class_head(model: nn.Module, width: int) -> str:
    """The name of a last layer that gives `width` classes, as far as it has a customary name; "" for none."""
    for name in CLASS_HEADS:
        layers = [part for part in getattr(model, name, nn.Identity()).modules() if isinstance(part, nn.Linear)]
        if layers and layers[-1].out_features == width:
            return name
    return ""


def _check_protocols(jobs: Sequence[Job], name: str, prepared: Prepared, *, tokens: bool) -> None:
    """Raises: SettingsError: a protocol that needs what the function does not give."""
    for job in jobs:
        wanted, got, do = (
            "",
            "a function of images",
            f"leave {job.protocol} out, or save a checkpoint and evaluate that",
        )
        if job.protocol in BEYOND:
            wanted = BEYOND[job.protocol]
        elif job.protocol in ("vos", "segmentation") and not tokens:
            wanted, got, do = "patch tokens", "a function that gives [B, D]", "return evaltk.types.Tokens"
        elif prepared.own is not None and _makes_images(job):
            wanted, got = "sizes, mean and std to prepare images with", "a transform that does not state them"
            do = preparing.EXAMPLE
            if job.protocol == "linear":
                do += '; or settings={"linear": {"fast": True}}, without random crops'
            if job.protocol == "geometry":
                do += '; or settings={"geometry": {"views": 0}}, without random crops'
        if wanted:
            raise SettingsError(wanted=f"{wanted} for {job.protocol}", got=got, where=name, do=do)


def _makes_images(job: Job) -> bool:
    """Whether a protocol prepares images by itself: random crops, several scales, frames."""
    if job.protocol == "linear":
        return not (job.settings.fast or job.settings.head)
    if job.protocol == "geometry":
        return job.settings.views > 0
    return job.dataset.KIND != "images"
