"""The checkpoints that words stand for: a glob, a training's folder, or one checkpoint."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from evaltk.checkpoints.locate import exists
from evaltk.errors import CheckpointError, SettingsError

SCHEME = re.compile(r"(timm|random|pixels|hf):")
# What `evaltk pretrain` writes (see pretrain/checkpoint.py).
LOG, LAST, BEFORE, KEPT = "log.jsonl", "checkpoint.pth", "checkpoint.before.pth", "checkpoint-epoch*.pth"


def expanded(words: Sequence[str], *, every: bool = False, last: bool = True) -> tuple[str, ...]:
    """The checkpoints that the words stand for, each once, in the order of the words.

    Args:
        every: of a training's folder all checkpoints that it kept, oldest first; else the last one.
        last: False: those kept by epoch alone, also if there are none: a training that goes on replaces its last one.

    Raises: CheckpointError: a glob that matches nothing, a training without a checkpoint.
    """
    found: list[str] = []
    for word in words:
        for one in _matched(word):
            found += _of_run(Path(one), every=every, last=last) if is_run(one) else [one]
    return tuple(dict.fromkeys(found))


def check_every(words: Sequence[str], *, every: bool) -> None:
    """Raises: SettingsError: ``--every-checkpoint``, and no training's folder among the words."""
    if every and not runs(words):
        got, do = ", ".join(words)[:80], "evaltk run runs/NAME --every-checkpoint"
        raise SettingsError(wanted="a training's folder", got=got, where="--every-checkpoint", do=do)


def runs(words: Sequence[str]) -> list[Path]:
    """The trainings' folders among the words."""
    return [Path(one).expanduser() for word in words for one in _matched(word) if is_run(one)]


def is_run(word: str) -> bool:
    """Whether a word is the folder of a training of `evaltk pretrain`."""
    if SCHEME.match(word):
        return False
    try:
        return (Path(word).expanduser() / LOG).is_file()
    except (OSError, ValueError):
        return False


def kept(folder: Path) -> list[Path]:
    """The checkpoints that a training kept, oldest first, and its last one unless that was kept too."""
    path, found = folder.expanduser(), epochs(folder)
    last = next((path / name for name in (LAST, BEFORE) if (path / name).is_file()), None)
    twin = last is not None and found and _same(last, found[-1])
    return [*found, *([last] if last is not None and not twin else [])]


def epochs(folder: Path) -> list[Path]:
    """The checkpoints that a training kept by epoch, oldest first."""
    return sorted(folder.expanduser().glob(KEPT))


def _matched(word: str) -> list[str]:
    if SCHEME.match(word) or not glob.has_magic(word) or exists(Path(word)):
        return [word]
    path = str(Path(word).expanduser())
    found = sorted(glob.glob(path, recursive=True), key=_by_number)  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not found:
        do = "check it; quote it so that the shell leaves it alone, and mind the folder that it starts from"
        raise CheckpointError(wanted="a pattern that some checkpoint matches", got="no match", where=word, do=do)
    return found


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts ``epoch9`` before ``epoch10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _of_run(folder: Path, *, every: bool, last: bool) -> list[str]:
    if not last:
        return [str(path) for path in epochs(folder)]
    found = kept(folder)
    if not found:
        do = "wait for its first checkpoint (run.save_minutes), or name a file"
        raise CheckpointError(wanted="a training with a checkpoint", got="none yet", where=folder, do=do)
    newest = next((path for path in reversed(found) if path.name in (LAST, BEFORE)), found[-1])
    return [str(path) for path in (found if every else (newest,))]


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while part := first.read(1 << 20):
            if part != second.read(1 << 20):
                return False
    return True
