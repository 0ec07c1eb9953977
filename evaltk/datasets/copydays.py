"""INRIA Copydays: 157 photographs and their crops, JPEG compressions and strong alterations."""

from __future__ import annotations

from pathlib import Path

from evaltk.data.copies import Copies
from evaltk.data.folders import EXTENSIONS, is_hidden
from evaltk.data.galleries import Photographs, photographs
from evaltk.datasets import DatasetSpec
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError

WHERE = (
    "expected: PATH/{original,strong,jpegqual/{3,...,75},crops/{10,...,80}}/*.jpg; get it from "
    "lear.inrialpes.fr/~jegou/data.php"
)
CROPS, QUALITIES = (10, 15, 20, 30, 40, 50, 60, 70, 80), (3, 5, 8, 10, 15, 20, 30, 50, 75)
BLOCKS = ("strong", *(f"jpegqual/{q}" for q in QUALITIES), *(f"crops/{c}" for c in CROPS))
NUM_ORIGINALS = 157
SHARED = 4  # first letters that a copy's name shares with its original's (dino/eval_copy_detection.py:75-79)


def load(root: Path, label: str = "copydays") -> Copies:
    """The blocks that are there; no image is decoded.

    Raises: DataError: no originals, no block of copies, a copy without an original, originals of one name.
    """
    originals = _block(root, label, "original")
    if originals is None:
        raise DataError(wanted="the originals", got="no images", where=root / "original", do=WHERE)
    number = {Path(name).name[:SHARED]: i for i, name in enumerate(originals.files or ())}
    if len(number) < len(originals):
        got = f"{len(originals)} files, {len(number)} beginnings"
        wanted = f"originals whose names differ in the first {SHARED} letters"
        raise DataError(wanted=wanted, got=got, where=root / "original", do=WHERE)
    blocks, positives = {}, {}
    for name in BLOCKS:
        block = _block(root, label, name)
        if block is None:
            continue
        begins = [Path(file).name[:SHARED] for file in block.files or ()]
        if alone := [file for file, begin in zip(block.files or (), begins, strict=True) if begin not in number]:
            raise DataError(wanted="an original for each copy", got=f"none for {alone[0]}", where=root / name, do=WHERE)
        blocks[name], positives[name] = block, tuple((number[begin],) for begin in begins)
    if not blocks:
        raise DataError(wanted="copies", got="originals alone", where=root, do=WHERE)
    lacking = [name for name in BLOCKS if name not in blocks]
    deviations: tuple[Deviation, ...] = ()
    if len(originals) != NUM_ORIGINALS:
        text = f"{len(originals)} originals, Copydays has {NUM_ORIGINALS}"
        deviations = (Deviation(kind=DeviationKind.SPLIT_SIZE, text=text),)
    notes = (f"without {', '.join(lacking)}",) if lacking else ()
    return Copies(
        name=label, originals=originals, blocks=blocks, positives=positives, deviations=deviations, notes=notes
    )


def _block(root: Path, label: str, name: str) -> Photographs | None:
    folder = root / name
    if not folder.is_dir():
        return None
    files = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not is_hidden(p.name))
    return photographs(label, name, root, [f"{name}/{file}" for file in files]) if files else None


DATASET = DatasetSpec(name="copydays", where=WHERE, load=load, doc=__doc__)
