"""Convert a checkpoint to safetensors, with its architecture inside.

Examples:
    evaltk convert dino_deitsmall16_pretrain_full_checkpoint.pth dino_s16.safetensors
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from evaltk.checkpoints.read_options import ReadOptions
from evaltk.cli import _options
from evaltk.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Options(ReadOptions):
    """Convert a checkpoint to safetensors.

    Attributes:
        checkpoint: the file to convert.
        out: the file to write, ending in .safetensors.
        force: overwrite an existing file.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    force: bool = False


def main(argv: list[str]) -> int:
    """Convert, read back and compare. Raises: CheckpointError, SettingsError, StorageError."""
    options = _options.parse(Options, argv, "convert", __doc__)
    if options.out.suffix != ".safetensors":
        raise SettingsError(
            wanted="a name ending in .safetensors", got=options.out.name, where="OUT", do="rename the output"
        )
    if options.out.exists() and not options.force:
        raise SettingsError(wanted="a new file", got="an existing one", where=options.out, do="pass --force")
    from evaltk.checkpoints import locate

    locate.check(options.checkpoint)
    from safetensors.torch import save

    from evaltk import files
    from evaltk.checkpoints.families import own
    from evaltk.checkpoints.load import load

    checkpoint = load(options.checkpoint, options.read_options())
    tensors, metadata = own.pack(checkpoint)
    files.write(options.out, lambda stream: stream.write(save(tensors, metadata)))
    back = load(options.out, ReadOptions())
    if back.digest != checkpoint.digest:
        raise RuntimeError(f"{options.out} reads back as {back.digest}, not {checkpoint.digest}")
    print(options.out, back.sha256, sep="\t")
    return 0
