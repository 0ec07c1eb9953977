"""Result files: one JSON a result, written whole or not at all, its per-image predictions beside it."""

from __future__ import annotations

import io
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from evaltk import checksums, files, owned, safe_arrays, safe_json
from evaltk.errors import StorageError
from evaltk.results import format1
from evaltk.types import (
    Deviation,
    DeviationKind,
    OriginProof,
    PixelView,
    Preprocessing,
    Result,
    ResultData,
    Score,
)

FORMAT = 2  # the formats before it are read too
LONGEST = 100  # characters of a name that become part of a path
# Of an entry of the feature cache, and what a training writes beside its checkpoint.
CACHE_FILES = ("key.json", "checksums.json", "plan.json", "recipe.json")
BESIDE = "predictions_crc32"  # field of the file: checksums of the predictions beside it
SHARES = re.compile(r"top[15](_best_k|_chosen_k|_mean|_among)?")  # metrics that are fractions of the images
OURS = re.compile(r"-[0-9a-f]{12}\.json$")


class DamagedResult(StorageError):
    """A result file, or the predictions beside it, that can only be made anew."""


def path_of(out: Path, checkpoint: str, protocol: str, dataset: str, request: str) -> Path:
    """Where a result lies: ``OUT/CHECKPOINT/PROTOCOL-DATASET-REQUEST.json``; other settings make another file."""
    return out / slug(checkpoint) / f"{slug(protocol)}-{slug(dataset)}-{request[:12]}.json"


def slug(name: str) -> str:
    """`name` as the name of a file or folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:LONGEST] or "unnamed"


def prepare(path: Path) -> None:
    """Make sure, before hours of work, that a result can be written to `path`; a damaged one there is set aside.

    Raises: StorageError.
    """
    files.make_folder(path.parent)
    owned.sweep(path.parent)
    if not os.access(path.parent, os.W_OK):
        do = "choose a folder you can write to"
        raise StorageError(wanted="a writable place", got="permission denied", where=path.parent, do=do)
    if path.exists():
        try:
            read(path)
            check_predictions(path)
        except DamagedResult:
            set_aside(path)


def write(path: Path, result: Result, predictions: Mapping[str, np.ndarray]) -> None:
    """Write a result and its predictions: the file appears last, so that it means that all of it is there.

    Raises: StorageError: no room, no right to write; a result that was there before is kept.
    ValueError: a score that is no finite number.
    """
    for score in result.scores:
        if not math.isfinite(score.value):
            raise ValueError(f"{result.protocol}: {score.metric} is {score.value}")
    beside, buffer = predictions_path(path), io.BytesIO()
    if predictions:
        np.savez_compressed(buffer, **predictions)  # type: ignore[arg-type]
    sums = checksums.of_bytes(buffer.getbuffer()) if predictions else None
    text = checksums.dumps({"format": FORMAT, BESIDE: sums} | asdict(result), indent=1) + "\n"
    with files.storage_errors(path), alone(files.make_folder(path.parent)), ExitStack() as stack:
        # All that needs room comes first.
        new_text = stack.enter_context(files.temporary(path, lambda stream: stream.write(text.encode())))
        if predictions:
            fill = partial(_fill, data=buffer.getbuffer())
            new_beside = stack.enter_context(files.temporary(beside, fill))
        # Then the old result goes before the new predictions take the place of its own, unless they are the same.
        if not _are(beside, sums):
            path.unlink(missing_ok=True)
            beside.unlink(missing_ok=True)
            if predictions:
                new_beside.replace(beside)
        new_text.replace(path)


def _fill(stream: BinaryIO, data: memoryview) -> None:
    stream.write(data)


def _are(beside: Path, sums: list[int | str] | None) -> bool:
    """Whether the predictions on disk are those with these checksums; None: whether there are none."""
    try:
        return checksums.of_file(beside) == sums
    except FileNotFoundError:
        return sums is None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time puts results into the folder, where the file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        owned.wait_for(descriptor)
        yield
    finally:
        os.close(descriptor)


def predictions_path(path: Path) -> Path:
    """The predictions that belong to a result file."""
    return path.with_suffix(".predictions.npz")


def read(path: Path) -> Result:
    """A result file, of this format or an earlier one.

    Raises: DamagedResult: unreadable or damaged. StorageError: of a newer format.
    """
    do = "remove it and run again"
    kind: type[StorageError] = DamagedResult
    try:
        found = checksums.loads(safe_json.text(path))
        version = found.pop("format")
        found.pop(BESIDE, None)
        if version == format1.FORMAT:
            found = format1.upgraded(found)
        elif version != FORMAT:
            if isinstance(version, int) and version > FORMAT:
                do, kind = f"install a newer evaltk, or {do}", StorageError
                raise ValueError(f"format {version!r:.20}, of a later evaltk")
            raise ValueError(f"format {version!r:.20}")
        result = _result(found)
        if not all(_finite(score.value) for score in result.scores):
            raise ValueError("a score that is no finite number")
        if not _sound(result):
            raise ValueError("a field of another kind")
        if odd := [s for s in result.scores if SHARES.fullmatch(s.metric) and not 0 <= s.value <= 1]:
            raise ValueError(f"{odd[0].value:g} for {odd[0].metric}, a fraction")
        return result
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, checksums.Damaged):
            do += f"; if you edited it, remove its {checksums.FIELD!r}"
        raise kind(
            wanted=f"a result file of format {FORMAT} or earlier",
            got=str(error)[:100] if kind is StorageError else f"{type(error).__name__}: {str(error)[:100]}",
            where=path,
            do=do,
        ) from error


def _result(found: dict[str, Any]) -> Result:
    """A result from the tree of a file of this format. Raises: KeyError, TypeError, ValueError."""
    names = {f.name for f in fields(Result)}
    if missing := sorted(names - found.keys()):
        raise ValueError(f"no {', '.join(missing)}")
    looks = found["preprocessing"]
    views = {name: PixelView(**{k: _fixed(v) for k, v in view.items()}) for name, view in looks["views"].items()}
    typed = {
        "data": ResultData(**found["data"]),
        "preprocessing": Preprocessing(**(looks | {"views": views})),
        "origin_proof": OriginProof(found["origin_proof"]),
        "deviations": tuple(Deviation(kind=DeviationKind(d["kind"]), text=d["text"]) for d in found["deviations"]),
        "notes": tuple(found["notes"]),
        "scores": tuple(Score(**(s | {"interval": _fixed(s["interval"]) or None})) for s in found["scores"]),
    }
    return Result(**(found | typed))


def _fixed(value: object) -> Any:
    """Lists, which are all that JSON has, as tuples."""
    return tuple(value) if isinstance(value, list) else value


def _sound(result: Result) -> bool:
    """Whether the fields are of the kinds that readers count on; a file may have been edited by hand."""
    looks, data = result.preprocessing, result.data
    parts = (result.checkpoint, result.settings, result.made, data.sizes, looks.overrides, looks.views)
    texts = [result.protocol, result.request, *(word for s in result.scores for word in (s.dataset, s.split, s.metric))]
    texts += [data.name, data.fingerprint, *result.notes, *(d.text for d in result.deviations)]
    texts += [view.text for view in looks.views.values()]
    numbers = [number for s in result.scores for number in (s.n, *(s.interval or ()))]
    return (
        all(isinstance(part, dict) for part in (*parts, *(s.at for s in result.scores)))
        and all(isinstance(text, str) for text in [*texts, result.checkpoint.get("name")])
        and all(_is_number(n) and _finite(n) for n in (result.version, result.seed, *numbers))
        and all(_is_number(s.value) for s in result.scores)
        and all(s.interval is None or (len(s.interval) == 2 and s.interval[0] <= s.interval[1]) for s in result.scores)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(number: float) -> bool:
    """Whether it is a number that a float can hold; JSON has whole numbers of any length."""
    return abs(number) <= sys.float_info.max


def read_predictions(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The per-image arrays beside the result file `path` ({} where it has none), or those of them that are named.

    Raises: StorageError: a damaged file.
    """
    beside = predictions_path(path)
    if not beside.exists():
        return {}
    try:
        check_predictions(path)
        return safe_arrays.read_npz(beside, names)
    except StorageError:
        raise
    except (OSError, ValueError) as error:
        raise _damaged_predictions(beside, error) from error


def check_predictions(path: Path) -> None:
    """Compare the predictions beside the result file `path` with their checksums, where the result states them.

    Raises: DamagedResult: they are damaged, gone, or of another run.
    """
    beside = predictions_path(path)
    try:
        wanted = safe_json.parse(path.read_text(encoding="utf-8")).get(BESIDE)
    except (OSError, ValueError, AttributeError):
        return  # no result that could be read says anything of them
    if wanted is not None:
        try:
            checksums.check_file(beside, wanted)
        except (OSError, ValueError) as error:
            raise _damaged_predictions(beside, error) from error


def _damaged_predictions(beside: Path, error: Exception) -> DamagedResult:
    got, do = str(error)[:100] or type(error).__name__, "run again with --again"
    return DamagedResult(wanted="the predictions of a result", got=got, where=beside, do=do)


def set_aside(path: Path) -> Path:
    """Move a damaged result, and its predictions, out of the way. Returns: where it is kept. Raises: StorageError."""
    kept = path.with_name(path.name + ".damaged")
    with files.storage_errors(path):
        for old in (path, predictions_path(path)):
            with suppress(FileNotFoundError):
                old.replace(old.with_name(old.name + ".damaged"))
    return kept


def find(
    out: Path, *, skip: Callable[[Path, str], object] | None = None, copies: bool = False
) -> Iterator[tuple[Path, Result]]:
    """Every result under `out`, in order of path; other JSON files that lie there are passed over.

    Args:
        copies: with copies of files; without, one of those that are the same, if possible with predictions.
        skip: is told of each JSON file that is no result that can be read, and why; the feature cache's own are no
            news. Without it foreign files are passed over in silence, and a damaged result is an error.

    Raises: StorageError: no such folder, or (without `skip`) a damaged result.
    """
    if not out.is_dir():
        raise StorageError(
            wanted="a folder of results",
            got="a file" if out.exists() else "no such folder",
            where=out,
            do="run `evaltk run ... --out` first, or name it",
        )
    found: dict[str, list[tuple[Path, Result]]] = {}  # those that are the same, whenever they were made
    for path in files.below(out, "*.json"):
        if not (OURS.search(path.name) or _looks_ours(path)):
            if skip and path.name not in CACHE_FILES and path.is_file():
                skip(path, "no result of evaltk")
            continue
        try:
            result = read(path)
        except StorageError as error:
            if not skip:
                raise
            skip(path, error.got)
            continue
        found.setdefault(repr(replace(result, made={})), []).append((path, result))
    for same in found.values():
        best = max(same, key=lambda one: predictions_path(one[0]).exists())
        for path, result in same:
            if copies or path is best[0]:
                yield path, result
            elif skip:
                skip(path, f"a copy of {best[0]}")


def _looks_ours(path: Path) -> bool:
    """Whether a file of another name than ours holds a result; the feature cache, for one, keeps JSON of its own."""
    try:
        found = safe_json.read(path)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"format", "protocol", "scores"} <= found.keys()
