"""What a user says of image files of their own: flags of `run`, `plan` and `datasets`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from evaltk.data.decoding import Reading
    from evaltk.data.shares import Share


@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Your own images.

    Attributes:
        path_column: csv: column of the paths; arrow: of the images.
        label_column: csv, arrow: column of the labels; wds: key in .json.
        split_column: csv: column that says train, val or test.
        split: share of each class to test on, where the data have no test split.
        show: pixels as a viewer shows them (EXIF orientation, transparency on white, more than 8 bits), the default,
            or as torchvision's ImageFolder reads them.
        max_pixels: largest image to read (up to 1000000000 pixels; memory: 4 bytes a pixel).
    """

    path_column: str | None = field(default=None, metadata={"metavar": "NAME"})
    label_column: str | None = field(default=None, metadata={"metavar": "NAME"})
    split_column: str | None = field(default=None, metadata={"metavar": "NAME"})
    split: float | None = field(default=None, metadata={"metavar": "0.2"})
    show: Literal["as-shown", "as-reference"] | None = None
    max_pixels: int | None = field(default=None, metadata={"metavar": "N"})


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

    @property
    def reading(self) -> Reading:
        """How images are read. Raises: SettingsError: a limit of pixels out of range."""
        from evaltk.data.decoding import MAX_PIXELS, Reading

        limit = MAX_PIXELS if self.max_pixels is None else self.max_pixels
        return Reading(show=self.show or "as-shown", max_pixels=limit)

    def given(self) -> dict[str, str]:
        """{field: the flag} of what was given."""
        flags = {f.name: f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(DataFlags)}
        return {name: flag for name, flag in flags.items() if getattr(self, name) is not None}
