"""Public datasets are downloaded, compared with the published checksums, and opened."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from evaltk import datasets, owned
from evaltk.checkpoints.download import download, state_path
from evaltk.checkpoints.fetching import size_of
from evaltk.data import archives
from evaltk.errors import DownloadError, SettingsError, nearest
from evaltk.files import make_folder, storage_errors
from evaltk.progress import log, status

TABLE = Path(datasets.__file__).with_name("downloads.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to download.

    Attributes:
        mirrors: other addresses, tried where `url` does not have it. into: folder for what is in it.
        md5, sha256: of its bytes, empty where none is published.
    """

    url: str
    md5: str = ""
    sha256: str = ""
    mirrors: tuple[str, ...] = ()
    into: str = ""

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(urlsplit(self.url).path).name

    @property
    def checks(self) -> str:
        """What its bytes are compared with, in words."""
        known = [f"{kind} {digest}" for kind, digest in (("MD5", self.md5), ("sha256", self.sha256)) if digest]
        return " and ".join(known) or "no checksum is published: that of this download is kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """A public dataset. root: what ``--data`` names, within the folder it was fetched into."""

    name: str
    files: tuple[File, ...]
    licence: str
    root: str = ""


def table(path: Path = TABLE) -> dict[str, Public]:
    """{name: dataset} of those that can be fetched."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        name: Public(
            name=name,
            licence=given["licence"],
            root=given.get("root", ""),
            files=tuple(File(**file | {"mirrors": tuple(file.get("mirrors", ()))}) for file in given["files"]),
        )
        for name, given in found.items()
    }


def fetch(name: str, folder: Path, *, known: dict[str, Public], say: Callable[[str], None]) -> Path:
    """Download what `folder` lacks of a dataset and open it; a broken download goes on at the next call.

    Args:
        say: gets source, licence and size of each file before its download begins, and its checksum afterwards.

    Returns: the folder to name behind ``--data NAME=``.

    Raises: SettingsError: no dataset that can be fetched. DownloadError: no answer, or other bytes than published.
        DataError: an archive that leads out of the folder. StorageError: no room, no right to write, or another
            download into the folder is under way.
    """
    if name not in known:
        do = f"{nearest(name, known)}; others by hand: evaltk ls datasets"
        raise SettingsError(
            wanted="a dataset that can be fetched", got=repr(name), where="evaltk datasets fetch", do=do
        )
    public = known[name]
    make_folder(folder)
    with storage_errors(folder), owned.lock(folder, "a download", "wait until it has ended, or name another DIR"):
        _fetch_all(public, folder, say)
    return folder / public.root


def _fetch_all(public: Public, folder: Path, say: Callable[[str], None]) -> None:
    for file in public.files:
        done = folder / f".{file.name}.fetched"
        if done.exists():
            log.info("%s is there already", file.name)
            continue
        part, whole = folder / f"{file.name}.part", folder / file.name
        if whole.is_file():  # put there by hand, or left by a kill: it is compared, and opened
            with storage_errors(folder):
                state_path(part).unlink(missing_ok=True)
                whole.replace(part)
        else:
            _download(file, part, licence=public.licence, say=say)
        sha256 = _compare(part, file)
        into = folder / file.into
        make_folder(into)
        with storage_errors(folder):
            part.replace(whole)
            state_path(part).unlink(missing_ok=True)
            if archives.is_archive(whole):
                with status(f"opening {file.name}"):
                    archives.unpack(whole, into)
                whole.unlink()
            done.write_text(f"{file.url}\n{sha256}\n", encoding="utf-8")
        say(f"{file.name}: sha256 {sha256}")


def _download(file: File, part: Path, *, licence: str, say: Callable[[str], None]) -> None:
    """Download a file from the first address that has it. Raises: DownloadError: the last one's, if none does."""
    addresses = (file.url, *file.mirrors)
    for url in addresses:
        size = size_of(url)
        told = f", {size / 1e6:,.1f} MB" if size else ""
        say(f"{url}{told}; licence: {licence}; {file.checks}")
        try:
            download(url, part, title=f"fetching {file.name}", room="name another DIR", advance=lambda count: None)
        except DownloadError as error:
            if url == addresses[-1]:
                raise
            say(f"{url}: {error.got}; trying another address")
        else:
            return


def _compare(part: Path, file: File) -> str:
    """The sha256 of what came. Raises: DownloadError: its checksum is not the published one; it is set aside."""
    md5, sha = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with part.open("rb") as stream:
        while block := stream.read(1 << 20):
            md5.update(block)
            sha.update(block)
    for kind, wanted, got in (("MD5", file.md5, md5.hexdigest()), ("sha256", file.sha256, sha.hexdigest())):
        if wanted and wanted != got:
            aside = part.with_name(f"{file.name}.mismatch")
            part.replace(aside)
            state_path(part).unlink(missing_ok=True)
            do = f"look at {aside}, remove it and fetch again; if it stays so, the publisher has changed the file"
            raise DownloadError(wanted=f"{kind} {wanted}", got=got, where=file.url, do=do)
    return sha.hexdigest()
