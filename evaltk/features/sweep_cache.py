"""What a sweep of linear heads gave, and where it lies in the cache: named by the digest of all it depends on."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaltk import files
from evaltk.checkpoints import torchfile
from evaltk.errors import CheckpointError, StorageError
from evaltk.types import FeatureKey

HISTORY = ("train_loss", "held_correct", "held_loss", "test_correct")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What came of a sweep of F features x H learning rates over E epochs, judged on N reported images.

    Attributes:
        history: of `HISTORY`, [E, F, H] float64, NaN from the epoch on in which a head diverged.
        diverged: [F, H] int64, that epoch, -1 where there is none.
        best_epoch, best_head: [F], where most reported images were right. best_rank, best_predicted: [F, N].
        chosen_head: [F], best on the held-out images after the last epoch, -1 where none were held out or all heads
            diverged. chosen_rank, chosen_predicted: [F, N], of the last epoch.
        skipped: number of images that could not be read, int64 [].
    """

    history: Mapping[str, np.ndarray]
    diverged: np.ndarray
    best_epoch: np.ndarray
    best_head: np.ndarray
    best_rank: np.ndarray
    best_predicted: np.ndarray
    chosen_head: np.ndarray
    chosen_rank: np.ndarray
    chosen_predicted: np.ndarray
    skipped: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where a training's state and outcome lie; `what`: what errors call it."""

    root: Path
    key: FeatureKey
    what: str = "a linear probe's training"

    @property
    def state(self) -> Path:
        """The state after the last whole epoch."""
        return self.root / "features" / f"{self.key.digest()}.partial" / "state.pt"

    @property
    def whole(self) -> Path:
        """Folder of the outcome."""
        return self.root / "features" / self.key.digest()

    def done(self) -> bool:
        """Whether the training has ended."""
        return (self.whole / "key.json").exists()

    def write_state(self, tree: Mapping[str, Any]) -> None:
        """Write tensors and plain values, whole or not at all. Raises: StorageError."""
        files.write(self.state, lambda stream: torch.save(dict(tree), stream))

    def read_state(self) -> Any:
        """The tree of an earlier run, None where there is none. Raises: StorageError: it is damaged."""
        if not self.state.exists():
            return None
        try:
            return torchfile.read(self.state)
        except CheckpointError as error:
            raise self.damaged(error.got) from error

    def damaged(self, got: str) -> StorageError:
        """What to say of a state that is none."""
        wanted, do = f"the state of {self.what}", "remove the file and run again"
        return StorageError(wanted=wanted, got=got[:160], where=self.state, do=do)

    def write(self, trained: Trained) -> None:
        """Write the outcome; the state goes. Raises: StorageError."""
        self.write_arrays(
            {f.name: getattr(trained, f.name) for f in fields(trained) if f.name != "history"} | dict(trained.history)
        )

    def write_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write an outcome that is arrays; the state goes. Raises: StorageError."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        files.write(self.whole / "trained.npz", lambda stream: stream.write(buffer.getbuffer()))
        files.write_text(self.whole / "key.json", json.dumps(asdict(self.key), indent=1, sort_keys=True))
        shutil.rmtree(self.state.parent, ignore_errors=True)

    def read(self) -> Trained:
        """The outcome. Raises: StorageError: the entry is damaged."""
        arrays = self.read_arrays((*HISTORY, *(f.name for f in fields(Trained) if f.name != "history")))
        history = {name: arrays.pop(name) for name in HISTORY}
        return Trained(history=history, **arrays)

    def read_arrays(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The outcome's arrays of these names. Raises: StorageError: the entry is damaged."""
        try:
            with np.load(self.whole / "trained.npz", allow_pickle=False) as found:
                return {name: found[name] for name in names}
        except Exception as error:  # zipfile, numpy and a missing field each have errors of their own
            do = f"remove it (evaltk cache prune {self.whole.name[:12]}) and run again"
            raise StorageError(wanted="a whole cache entry", got=str(error)[:120], where=self.whole, do=do) from error
