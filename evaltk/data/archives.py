"""Archives are opened whole or not at all, and write nowhere but into their folder."""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from evaltk.errors import DataError, EvaltkError, some
from evaltk.files import make_folder, storage_errors

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
TIMES = 100  # a file that grows more than this often by being opened is no archive of images


def is_archive(path: Path) -> bool:
    """Whether its name says that it is an archive that `unpack` opens."""
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: Path, folder: Path) -> None:
    """Write the files of a tar or zip archive below `folder`, beside those that are there.

    All names are looked at before the first file is written; files appear in `folder` once all are written.

    Raises:
        DataError: a name that leads out of the folder, a link, a device, a file that is there with another content
            type, or a damaged archive.
        StorageError: no room, no right to write.
    """
    partial = folder / f".{archive.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        with storage_errors(folder):
            (_unzip if zipfile.is_zipfile(archive) else _untar)(archive, partial)
            _settle(partial, folder)
    except EvaltkError:
        raise
    # RuntimeError: an encrypted zip, or an unknown method; BadGzipFile: another checksum.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, gzip.BadGzipFile) as error:
        do = "remove it and fetch it again"
        raise DataError(wanted="a whole archive", got=str(error)[:160], where=archive, do=do) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _untar(archive: Path, partial: Path) -> None:
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
        odd = [m.name for m in members if not (m.isreg() or m.isdir())]
        _check(archive, (m.name for m in members), odd, sum(m.size for m in members))
        for member in members:
            target = partial / member.name
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source = opened.extractfile(member)
            assert source is not None  # a regular file
            with source, target.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)


def _unzip(archive: Path, partial: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        odd = [m.filename for m in members if stat.S_IFMT(m.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR)]
        _check(archive, (m.filename for m in members), odd, sum(m.file_size for m in members))
        for member in members:
            target = partial / member.filename
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as source, target.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)


def _check(archive: Path, names: Iterable[str], odd: list[str], size: int) -> None:
    outside = [name for name in names if not _inside(name)]
    if outside or odd:
        what = "names that lead out of the folder" if outside else "links or devices"
        got = f"{what}: {some((outside or odd)[:1000], 3)}"
        raise DataError(wanted="an archive of plain files", got=got, where=archive, do="do not use it")
    if size > TIMES * max(archive.stat().st_size, 1 << 20):
        got = f"{size:,} bytes in {archive.stat().st_size:,}"
        raise DataError(wanted="an archive of images", got=got, where=archive, do="do not use it")


def _inside(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":"
    return bool(name) and "\0" not in name and not path.is_absolute() and not drive and ".." not in path.parts


def _settle(partial: Path, folder: Path) -> None:
    """Move all files to where they belong; what is there of the same name is replaced."""
    for path in sorted(partial.rglob("*")):
        target = folder / path.relative_to(partial)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            path.replace(target)
