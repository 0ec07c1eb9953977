"""What a user may say of a weight file. Without torch, so that flags and their help come quickly."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from evaltk.errors import SettingsError

Triple = tuple[float, float, float]
Activation = Literal["gelu", "quickgelu", "gelu_tanh", "silu", "relu"]  # as in `evaltk.types`
Stem = Literal["imagenet", "cifar", "cifar-pad2"]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a weight file does not contain; None where not given.

    Attributes:
        branch: which copy of the net (default: its paper's).
        family: read the file as this family's, with the values of its published nets; a published number beside its
            results then stands there on your word.
        num_heads: attention heads.
        norm_eps: epsilon of the LayerNorms.
        activation: of the MLPs.
        stem: of a ResNet: imagenet, cifar (3x3, padding 1, no maxpool) or cifar-pad2 (solo-learn's).
        mean: pixel mean, R G B of [0, 1].
        std: pixel standard deviation, R G B of [0, 1].
    """

    branch: str | None = None
    family: str | None = None
    num_heads: int | None = None
    norm_eps: float | None = None
    activation: Activation | None = None
    stem: Stem | None = None
    mean: Triple | None = None
    std: Triple | None = None

    def read_options(self) -> ReadOptions:
        """These options alone, of a command's options that extend them."""
        return ReadOptions(**{f.name: getattr(self, f.name) for f in fields(ReadOptions)})

    def given(self) -> dict[str, object]:
        """What was said, in the types JSON has and sorted by name: it is part of what identifies a result."""
        values = {f.name: getattr(self, f.name) for f in sorted(fields(ReadOptions), key=lambda f: f.name)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}

    def check(self) -> None:
        """Raises: SettingsError: a value that no file could have."""
        faults = {
            "--num-heads": (self.num_heads is not None and self.num_heads < 1, "at least 1 attention head"),
            "--norm-eps": (self.norm_eps is not None and not 0 < self.norm_eps < 1, "an epsilon in (0, 1)"),
            "--activation": (
                self.activation is not None and self.activation not in get_args(Activation),
                " or ".join(get_args(Activation)),
            ),
            "--stem": (self.stem is not None and self.stem not in get_args(Stem), " or ".join(get_args(Stem))),
            "--mean": (
                self.mean is not None and not (len(self.mean) == 3 and all(0 <= v <= 1 for v in self.mean)),
                "a mean R G B, each in [0, 1]",
            ),
            "--std": (
                self.std is not None and not (len(self.std) == 3 and all(0 < v <= 1 for v in self.std)),
                "a standard deviation R G B, each in (0, 1]",
            ),
        }
        for flag, (wrong, wanted) in faults.items():
            if wrong:
                got = str(getattr(self, flag[2:].replace("-", "_")))
                scale = "divide values of 0 to 255 by 255" if flag in ("--mean", "--std") else ""
                do = scale or "take the value from the code that trained the net"
                raise SettingsError(wanted=wanted, got=got, where=flag, do=do)
