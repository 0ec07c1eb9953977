"""Pretrain DINO, DINO-vMF, iBOT, iBOT-vMF or MSN by a recipe; `torchrun -m pretrain` for several GPUs.

Examples:
    python -m pretrain digits_dino_vmf --data digits --out runs/digits_dino_vmf
    torchrun --nproc-per-node 8 -m pretrain dino_vmf_vits16 --data imagenet=/data/imagenet --out /runs/vmf_s16
    python -m pretrain mine.toml --set optim.epochs=50 method.scoring=cosine
"""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from evaltk import plugins


@dataclass(frozen=True, kw_only=True)
class Options:
    """Pretrain by a recipe.

    Attributes:
        recipe: a bundled recipe (an unknown name lists them) or a .toml file.
        data: images to learn from, NAME=PATH as for evaltk run, folder=DIR or zip=FILE (default: the recipe's).
        out: folder of checkpoints and log (default: runs/RECIPE).
        set: section.key=value, instead of what the recipe says.
        resume: auto, never, or a checkpoint to go on from.
        device: cpu, cuda or auto.
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
    """Train. Returns: 0 done, 75 stopped by a signal after a checkpoint. Raises: EvaltkError, Diverged."""
    import torch

    from evaltk.errors import SettingsError
    from pretrain import loop, recipe_file

    plugins.use(plugins.named_in(argv))
    options = tyro.cli(Options, args=argv, prog="evaltk pretrain", description=__doc__)
    recipe = recipe_file.load(options.recipe, options.set)
    if options.data is not None:
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source=options.data))
    device = options.device if options.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(wanted="a CUDA device", got="none here", where="--device", do="--device cpu")
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    return loop.run(recipe, out=options.out or Path("runs") / recipe.name, device=device, resume=options.resume)


if __name__ == "__main__":
    from evaltk import progress
    from evaltk.errors import EvaltkError

    progress.configure()
    try:
        code = main(sys.argv[1:])
    except EvaltkError as error:
        progress.log.error("%s", error)
        code = error.exit_code
    raise SystemExit(code)
