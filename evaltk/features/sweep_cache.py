"""A training in the cache: its state after each epoch, to resume from, and its outcome as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaltk import checksums, files
from evaltk.checkpoints import torchfile
from evaltk.errors import CheckpointError, StorageError
from evaltk.features.cache import CacheEntry
from evaltk.progress import log

OUTCOME = "trained.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store(CacheEntry):
    """Where a training's state and outcome lie; `what`: what errors call it."""

    what: str = "a linear probe's training"

    @property
    def state(self) -> Path:
        """The state after the last whole epoch."""
        return self.partial / "state.pt"

    def write_state(self, tree: Mapping[str, Any]) -> None:
        """Write tensors and plain values, whole or not at all. Raises: StorageError."""
        files.write(self.state, lambda stream: torch.save(dict(tree), stream))

    def read_state(self) -> Any:
        """The tree of an earlier run, None where there is none. A damaged one is named and set aside: begin anew.

        Raises: StorageError: it cannot be read or moved.
        """
        if not self.state.exists():
            return None
        try:
            checksums.check_zip(self.state)
            return torchfile.read(self.state)
        except (checksums.Damaged, CheckpointError) as error:
            kept = self.state.with_name("state.damaged.pt")
            said = error.got if isinstance(error, CheckpointError) else error
            log.warning("the state of %s is damaged (%s): it begins anew; kept as %s", self.what, said, kept)
            with files.storage_errors(kept), suppress(FileNotFoundError):  # another process may have moved it
                self.state.replace(kept)
            return None

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Around code that takes a state over. Raises: StorageError: it is not the state of such a training."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise self._damaged_state(f"{type(error).__name__}: {error}") from error

    def _damaged_state(self, got: str) -> StorageError:
        wanted, do = f"the state of {self.what}", "remove the file and run again"
        return StorageError(wanted=wanted, got=got[:160], where=self.state, do=do)
