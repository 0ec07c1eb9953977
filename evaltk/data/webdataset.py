"""WebDataset shards: uncompressed tar files of samples, read by offset. Nothing is unpacked, nothing executed."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from evaltk import checksums, files, progress, safe_json
from evaltk.data import encoded, own
from evaltk.data.encoded import EncodedSplit
from evaltk.data.folders import READABLE
from evaltk.data.images import Dataset
from evaltk.data.options import DataOptions
from evaltk.data.own import Label, Part
from evaltk.errors import DataError, EvaltkError, StorageError, some
from evaltk.types import digest

WHERE = (
    "expected: PATH, tar shards of KEY.jpg with KEY.cls or KEY.json: wds='train-{000..012}.tar,val-*.tar', one pattern "
    "of names that say train and test, or a folder of either"
)
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # KEY.EXTENSION, as WebDataset divides a member's name
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
LIST = re.compile(r"\{([^{}]*,[^{}]*)\}")
MOST = 100_000  # shards that a pattern may name
BLOCK = 512
INDEX_VERSION = 2  # of what is kept of a shard
LARGEST = 1 << 20  # bytes of a label's file


def load(text: str, label: str, options: DataOptions, *, indexes: Path | None = None) -> Dataset:
    """The dataset in tar shards.

    Args:
        indexes: folder that keeps what each shard holds, so that an unchanged shard is not gone through again.

    Raises: DataError: no such shards, a damaged one, a sample without image or label.
    """
    found = find(text)
    own.check_once(found, text)
    paths = [path for mine in found.values() for path in mine]
    folders = {path.parent for path in paths}
    root = folders.pop() if len(folders) == 1 else _shared(paths)
    parts = {}
    with progress.bar(f"{label}: index", len(paths), unit="shards") as advance:
        for role, mine in found.items():
            shards = []
            for path in mine:
                shards.append(_kept(path, options.label_column, indexes))
                advance(1)
            labels = [one for shard in shards for one in shard.labels]
            parts[role] = Part(labels=labels, split=_Shards(label, root, tuple(shards)).split)
    return own.assemble(label, parts, options, where=text)


def find(text: str) -> dict[str, list[Path]]:
    """{role: shards in order}; the role is ``all`` where nothing tells it. Raises: DataError."""
    named = own.words(text)
    if re.match(r"[a-z][a-z0-9]+:", text) and not Path(text).exists():
        do = "download the shards first"
        raise DataError(wanted="files on this machine", got=text[:80], where="--data wds", do=do)
    if len(named) == 2:
        return dict(zip(("train", "test"), map(_expanded, named), strict=True))
    if len(named) != 1:
        raise DataError(wanted="SHARDS or TRAIN,TEST", got=f"{len(named)} patterns", where=text, do=WHERE)
    root = own.expanded(named[0])
    if "{" not in text and root.is_dir():
        flat = sorted(root.glob("*.tar"))
        below = {path: path.parent.name for path in sorted(root.glob("*/*.tar"))}
        if below and not flat:
            return own.by_role(below, root)
        if not flat:
            got = some(sorted(p.name for p in root.iterdir()), 6) or "an empty folder"
            raise DataError(wanted="tar shards", got=got, where=root, do=WHERE)
    else:
        flat = _expanded(named[0])
    return own.by_role({path: path.stem for path in flat}, text)


def _expanded(pattern: str) -> list[Path]:
    """The shards that a pattern or folder names, sorted. Raises: DataError: none, or one of a range is missing."""
    path = own.expanded(pattern)
    if "{" not in pattern and path.is_dir():
        pattern = f"{path}/*.tar"
    found: list[Path] = []
    for name in _braces(str(own.expanded(pattern)), pattern):
        whole = Path(name)
        if whole.is_file():
            found.append(whole)
            continue
        anchor = Path(whole.anchor)
        wild = any(c in name for c in "*?[")
        mine = sorted(anchor.glob(str(whole.relative_to(anchor)) if whole.anchor else name)) if wild else []
        if not mine:
            raise DataError(wanted="tar shards", got=f"no {name}", where=pattern, do=WHERE)
        found += mine
    return found


def _braces(name: str, pattern: str) -> list[str]:
    """`name` with ``{000..012}`` and ``{a,b}`` expanded."""
    done: list[str] = []
    todo = [name]
    while todo:
        one = todo.pop(0)
        if len(done) + len(todo) > MOST:
            do = "name fewer"
            raise DataError(wanted=f"at most {MOST:,} shards", got="more", where=pattern, do=do)
        if found := RANGE.search(one):
            low, high = int(found[1]), int(found[2])
            if high - low >= MOST or high < low:
                got = found[0]
                raise DataError(
                    wanted="a range such as {000..012}", got=got, where=pattern, do="put the lower number first"
                )
            width = len(found[1]) if found[1].startswith("0") or len(found[1]) == len(found[2]) else 0
            values = [f"{n:0{width}d}" if width else str(n) for n in range(low, high + 1)]
        elif found := LIST.search(one):
            values = found[1].split(",")
        else:
            done.append(one)
            continue
        todo = [one[: found.start()] + value + one[found.end() :] for value in values] + todo
    return done


def _shared(paths: Sequence[Path]) -> Path:
    common = paths[0].absolute().parent
    return next(up for up in (common, *common.parents) if all(path.absolute().is_relative_to(up) for path in paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One tar file: the key, label, offset and bytes of each sample's image, in the file's order."""

    path: Path
    keys: tuple[str, ...]
    labels: tuple[Label, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(slots=True)
class _Sample:
    """The members of one sample so far: extension of the image, its place, and text of the files with its label."""

    image: str = ""
    offset: int = 0
    size: int = 0
    cls: str | None = None
    json: str | None = None


def _kept(path: Path, key: str | None, indexes: Path | None) -> Shard:
    """As `index`, from the folder of indexes where the file is the one it was made of."""
    if indexes is None:
        return index(path, key)
    status = path.stat()
    name = digest([INDEX_VERSION, str(path.resolve()), status.st_size, status.st_mtime_ns, key])
    kept = indexes / f"{name[:40]}.json"
    try:
        found = checksums.loads(kept.read_text(encoding="utf-8"))
        fields = {field: tuple(found[field]) for field in ("keys", "labels", "offsets", "sizes")}
        if len({len(values) for values in fields.values()}) == 1 and fields["keys"]:
            return Shard(path=path, **fields)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or damaged: it is made anew
    made = index(path, key)
    fields = {field: getattr(made, field) for field in ("keys", "labels", "offsets", "sizes")}
    with suppress(StorageError):  # a folder that cannot be written to costs time, no more
        files.write_text(kept, checksums.dumps(fields))
    return made


def index(path: Path, key: str | None) -> Shard:
    """What a shard holds, from one pass over the members' headers and the small files of labels.

    Args:
        key: of the label in .json; None: a customary one, and .cls goes before .json.

    Raises: DataError: no tar file, cut off, names that lead out of it, a key twice, a sample without image or label.
    """
    samples: dict[str, _Sample] = {}
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, 2)
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    if member.size < 0 or member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"cut off within {member.name}")
                    _add(samples, member, stream, path)
            # tarfile takes a damaged header and a missing end for the end.
            stream.seek(tar.offset)
            if (block := stream.read(BLOCK)) != bytes(BLOCK):
                raise tarfile.ReadError(f"{'damaged' if len(block) == BLOCK else 'cut off'} at byte {tar.offset:,}")
    except EvaltkError:
        raise
    except (OSError, tarfile.TarError, ValueError) as error:
        do = "copy the shard again; compressed ones have to be decompressed (gunzip)"
        raise DataError(wanted="a whole tar file", got=str(error)[:160], where=path, do=do) from error
    return _shard(path, samples, key)


def _add(samples: dict[str, _Sample], member: tarfile.TarInfo, stream: BinaryIO, path: Path) -> None:
    name = member.name.removeprefix("./")
    if member.isdir():
        return
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        do = "write the shard again with names inside it"
        raise DataError(wanted="names inside the archive", got=repr(member.name), where=path, do=do)
    found = NAME.fullmatch(name)
    if found is None:  # such as ._files of macOS, which WebDataset passes over too
        return
    extension = found[2].lower()
    kind = "image" if f".{extension}" in READABLE else extension
    if kind not in ("image", "cls", "json"):
        return
    if not member.isreg() or member.issparse():
        do = "write the shard again with the files themselves"
        raise DataError(wanted="plain files", got=f"{name}, a link or special file", where=path, do=do)
    sample = samples.setdefault(found[1], _Sample())
    if getattr(sample, kind):
        got = f"{name} twice" if kind != "image" or sample.image == extension else f"{name} beside .{sample.image}"
        do = "write the shard again, one sample for each key"
        raise DataError(wanted=f"one {kind} for each key", got=got, where=path, do=do)
    if kind == "image":
        sample.image, sample.offset, sample.size = extension, member.offset_data, member.size
        return
    if member.size > LARGEST:
        raise DataError(
            wanted="a label", got=f"{name} of {member.size:,} bytes", where=path, do="write the shard again"
        )
    stream.seek(member.offset_data)
    try:
        setattr(sample, kind, stream.read(member.size).decode("utf-8"))
    except UnicodeDecodeError as error:
        do = "write the shard again"
        raise DataError(wanted="a label as UTF-8 text", got=str(error)[:80], where=f"{path}, {name}", do=do) from error


def _shard(path: Path, samples: dict[str, _Sample], key: str | None) -> Shard:
    if not samples:
        raise DataError(wanted="samples KEY.jpg with KEY.cls or KEY.json", got="none", where=path, do=WHERE)
    without = [name for name, sample in samples.items() if not sample.image]
    unlabelled = [name for name, sample in samples.items() if sample.cls is None and sample.json is None]
    for lacking, what in ((without, "an image"), (unlabelled, "a label (.cls or .json)")):
        if lacking:
            got = f"{len(lacking):,} of {len(samples):,} samples without: {some(lacking, 3)}"
            raise DataError(wanted=f"{what} for each key", got=got, where=path, do="write the shard again without them")
    return Shard(
        path=path,
        keys=tuple(f"{name}.{sample.image}" for name, sample in samples.items()),
        labels=tuple(_label(sample, key, f"{path}, {name}") for name, sample in samples.items()),
        offsets=tuple(sample.offset for sample in samples.values()),
        sizes=tuple(sample.size for sample in samples.values()),
    )


def _label(sample: _Sample, key: str | None, where: str) -> Label:
    if sample.cls is not None and (key is None or sample.json is None):
        if text := sample.cls.strip():
            return text
        raise DataError(wanted="a label in .cls", got="an empty file", where=where, do="write the shard again")
    try:
        found: Any = safe_json.parse(sample.json or "")
    except (ValueError, RecursionError) as error:
        got = str(error)[:80]
        raise DataError(wanted="a JSON object in .json", got=got, where=where, do="write the shard again") from error
    keys = list(found) if isinstance(found, dict) else []
    value = found[own.needed(keys, key, own.LABELS, flag="--label-column", what="labels in .json", where=where)]
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    got, do = repr(value)[:40], "--label-column KEY names another key"
    raise DataError(wanted="a label that is a whole number or text", got=got, where=where, do=do)


@dataclass(frozen=True, slots=True)
class _Shards:
    """Reads images by row, counted through all shards."""

    dataset: str
    root: Path
    shards: tuple[Shard, ...]
    starts: np.ndarray = field(init=False, compare=False)

    def __post_init__(self) -> None:
        counts = [len(shard.keys) for shard in self.shards]
        object.__setattr__(self, "starts", np.cumsum([0, *counts])[:-1])

    def split(self, name: str, classes: tuple[str, ...], ids: np.ndarray) -> EncodedSplit:
        """The split of all samples."""
        return encoded.stored(
            self.dataset,
            name,
            self.root,
            classes,
            ids,
            ids=[f"{self._name(shard.path)}/{key}" for shard in self.shards for key in shard.keys],
            sizes=[size for shard in self.shards for size in shard.sizes],
            reader=self,
            files=[shard.path for shard in self.shards],
        )

    def read(self, row: int) -> bytes:
        """The bytes of an image."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        shard, at = self.shards[number], row - int(self.starts[number])
        with shard.path.open("rb") as stream:
            stream.seek(shard.offsets[at])
            return stream.read(shard.sizes[at])

    def _name(self, path: Path) -> str:
        return path.absolute().relative_to(self.root.absolute()).as_posix()
