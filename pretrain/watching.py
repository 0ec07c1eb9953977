"""How a run is watched: what happens at NaN and at collapse, and where its log goes besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from evaltk.errors import SettingsError

LIMITS = {"skip": 20, "rollback": 3}


@dataclass(frozen=True, kw_only=True)
class Watching:
    """Watching a run. None of it is part of the recipe; a run may resume with other values.

    Attributes:
        on_nan: at NaN or infinity: stop; skip the step; or go back to the last checkpoint and take the images in
            another order.
        nan_limit: skipped steps, or rollbacks, in the whole run before it stops (default: 20, or 3).
        stop_on_collapse: stop once the run has collapsed, instead of only warning.
        log: also log to tensorboard or wandb, which are installed separately.

    Raises: SettingsError: a negative limit.
    """

    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    nan_limit: int | None = field(default=None, metadata={"metavar": "N"})
    stop_on_collapse: bool = False
    log: Literal["none", "tensorboard", "wandb"] = "none"

    def __post_init__(self) -> None:
        if self.nan_limit is not None and self.nan_limit < 0:
            do = "use 0 or more"
            raise SettingsError(wanted="a number of times", got=str(self.nan_limit), where="--nan-limit", do=do)
        if self.nan_limit is not None and self.on_nan == "stop":
            do = "add --on-nan skip or --on-nan rollback"
            raise SettingsError(wanted="something to limit", got="--on-nan stop", where="--nan-limit", do=do)

    @property
    def limit(self) -> int:
        """How often a step may be skipped or the run rolled back."""
        return LIMITS.get(self.on_nan, 0) if self.nan_limit is None else self.nan_limit
