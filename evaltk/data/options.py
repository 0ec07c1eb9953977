"""What a user says of image files of their own: flags of `run`, `plan` and `datasets`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaltk.data.shares import Share


@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Your own images.

    Attributes:
        path_column: csv: column of the paths; arrow: of the images.
        label_column: csv, arrow: column of the labels; wds: key in .json.
        split_column: csv: column that says train, val or test.
        split: share of each class to test on, where the data have no test split.
    """

    path_column: str | None = field(default=None, metadata={"metavar": "NAME"})
    label_column: str | None = field(default=None, metadata={"metavar": "NAME"})
    split_column: str | None = field(default=None, metadata={"metavar": "NAME"})
    split: float | None = field(default=None, metadata={"metavar": "0.2"})


@dataclass(frozen=True, kw_only=True)
class DataOptions(DataFlags):
    """The flags with the seed of the draw."""

    seed: int = 0

    @staticmethod
    def of(flags: DataFlags, seed: int) -> DataOptions:
        """The options that flags stand for."""
        return DataOptions(**{f.name: getattr(flags, f.name) for f in dataclasses.fields(DataFlags)}, seed=seed)

    @property
    def share(self) -> Share | None:
        """What to draw; None: nothing. Raises: SettingsError: a share that is not in (0, 1)."""
        from evaltk.data.shares import Share

        return None if self.split is None else Share(share=self.split, seed=self.seed)

    def given(self) -> dict[str, str]:
        """{field: the flag} of what was given."""
        flags = {f.name: f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(DataFlags)}
        return {name: flag for name, flag in flags.items() if getattr(self, name) is not None}
