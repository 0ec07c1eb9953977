"""Pretrain DINO, DINO-vMF, iBOT, iBOT-vMF or MSN from a recipe; use `torchrun -m pretrain` for several GPUs.

Examples:
    python -m pretrain digits_dino_vmf --data digits --out runs/digits_dino_vmf
    torchrun --nproc-per-node 8 -m pretrain dino_vmf_vits16 --data imagenet=/data/imagenet --out /runs/vmf_s16
    python -m pretrain mine.toml --set optim.epochs=50 method.scoring=cosine
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from evaltk import arguments, crew, files, launchers, plugins, processes, progress, streams
from evaltk.data.options import DataFlags
from evaltk.errors import EvaltkError
from pretrain import recipe_names, signals
from pretrain.watching import Watching


@dataclass(frozen=True, kw_only=True)
class Options(Watching, DataFlags):
    """Pretrain from a recipe.

    Attributes:
        recipe: name of a bundled recipe (an unknown name lists them) or a .toml file.
        data: training images: NAME=PATH as for evaltk run, folder=DIR or zip=FILE (default: from the recipe).
        out: output folder for checkpoints and log (default: runs/RECIPE).
        set: recipe overrides, section.key=value.
        resume: auto (the newest checkpoint in --out), never, or a checkpoint file.
        device: auto (cuda, else cpu), cpu, cuda or cuda:N.
        plugin: a Python file with datasets or training methods of your own (docs/extending.md).
    """

    recipe: Annotated[str, tyro.conf.Positional]
    data: str | None = None
    out: Path | None = None
    set: tuple[str, ...] = ()
    resume: str = "auto"
    device: str = "auto"
    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()


def main(argv: list[str]) -> int:
    """Train. Returns: 0, or if stopped by a signal 75, or 130 after Ctrl-C. Raises: EvaltkError."""
    processes.ignore_at_exit()
    with signals.handle_signals():  # from here on, so that a signal while torch is imported has the same exit code
        plugins.use(plugins.named_in(argv))
        options = arguments.parse(Options, argv, "evaltk pretrain", __doc__)
        recipe_names.path_of(options.recipe)  # before torch is imported
        with progress.status("loading torch"):
            from evaltk.machine import resolve_device
            from pretrain import loop
            from pretrain import recipe as recipes

        recipe = recipes.load(options.recipe, options.set)
        told = {field.name: getattr(options, field.name) for field in dataclasses.fields(DataFlags)}
        given = {name: value for name, value in (told | {"source": options.data}).items() if value is not None}
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **given))
        device = own_device(resolve_device(options.device, mps=False))  # sums are float64, which mps does not have
        watching = Watching(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Watching)})
        out = options.out or Path("runs") / recipe.name
        code = loop.run(recipe, out=out, device=device, resume=options.resume, watching=watching)
        if code == 0 and os.environ.get("RANK", "0") == "0":
            file = shlex.quote(str(out / "checkpoint.pth"))
            progress.log.info("trained: %s; evaluate it: evaltk run %s --data NAME=PATH", out, file)
        return code


def own_device(device: str) -> str:
    """This process's GPU, where there are several processes; names what is odd in the environment."""
    import torch

    place, gpus = launchers.place(os.environ), torch.cuda.device_count()
    for sentence in launchers.odd(os.environ, gpus=gpus) if place is None or place.rank == 0 else ():
        progress.log.warning("%s", sentence)
    return f"cuda:{launchers.device_number(place, gpus)}" if device == "cuda" and place is not None else device


def said(error: BaseException) -> int:
    """Say an error on one line. Returns: the exit code. Raises: `error` itself, if it is a bug."""
    if isinstance(error, EvaltkError):
        progress.log.error("%s", error if progress.is_verbose() else error.brief())
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        progress.log.error("interrupted; the last checkpoint is kept")
        return 130
    if isinstance(error, processes.Ended):
        progress.log.error("ended by %s%s", error.name, error.kept or "; the last checkpoint is kept")
        return error.exit_code
    if isinstance(error, BrokenPipeError) and streams.reader_gone():
        return 0
    if isinstance(error, OSError) and (known := files.unforeseen(error) or streams.unwritten(error)) is not None:
        return said(known)
    raise error


def _begun() -> int:
    streams.prepare()
    argv = progress.configured(sys.argv[1:])
    streams.check_folder()
    code = main(argv)
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    raise SystemExit(crew.together(_begun, said))
