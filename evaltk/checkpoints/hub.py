"""`hf:ORG/NAME[@REVISION]`: a folder of the Hugging Face hub, from its own cache if it lies there, else downloaded.

Without network where the cache has it all. Only configs and the weight files that will be read are downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from evaltk import files
from evaltk.checkpoints import folder
from evaltk.errors import CheckpointError, DownloadError, EvaltkError, SettingsError, some
from evaltk.progress import log

SCHEME = "hf:"
SPELLING = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
MAIN = "main"
CACHED = re.compile(r"models--(.+?)--(.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A repository's files at one commit. `origin` is ``hf:ORG/NAME@COMMIT``, `name` what the user called it."""

    path: Path
    name: str
    origin: str


def snapshot(spelled: str) -> Snapshot:
    """The folder of `hf:ORG/NAME[@REVISION]`, downloaded unless the hub's cache has it.

    Raises:
        SettingsError: no such spelling, or huggingface_hub is not installed.
        DownloadError: no network, no such repository or revision, or one that is gated or private.
        CheckpointError: the repository holds no weights that can be read. StorageError: no room.
    """
    found = SPELLING.fullmatch(spelled)
    if not found or ".." in spelled:
        do = "write it as the hub does, as in hf:facebook/dinov2-small or hf:facebook/dinov2-small@main"
        raise SettingsError(wanted="hf:ORG/NAME[@REVISION]", got=repr(spelled), where="checkpoint", do=do)
    repository, revision = found[1], found[2] or MAIN
    library = _library(spelled)
    path = _cached(library, repository, revision)
    if path is None or not _has_configs(path):
        try:
            path = _downloaded(library, repository, revision, spelled)
        except DownloadError as error:
            if path is None:
                raise
            log.info("%s; the cache has the weights without all configs", error)
    return Snapshot(path=path, name=spelled, origin=f"{SCHEME}{repository}@{path.name}")


def name_of(path: Path) -> str:
    """ORG/NAME of a folder in the hub's cache (or a file of it), else ""."""
    for parent in (path, *path.parents)[:4]:
        if parent.parent.name == "snapshots" and (m := CACHED.fullmatch(parent.parent.parent.name)):
            return f"{m[1]}/{m[2]}"
    return ""


def _library(spelled: str) -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        do = "pip install 'evaltk[hub]', or download the folder and name its path"
        raise SettingsError(wanted="huggingface_hub", got="no such package", where=spelled, do=do) from error
    return huggingface_hub


def _cached(library: ModuleType, repository: str, revision: str) -> Path | None:
    """The snapshot in the cache, if all that is read of it is there; no request is made."""
    try:
        path = Path(library.snapshot_download(repository, revision=revision, local_files_only=True))
    except (OSError, ValueError, library.errors.LocalEntryNotFoundError):
        return None
    try:
        source = folder.of(path)
    except EvaltkError:
        return None  # a config alone, or some of the shards: the rest is downloaded
    return path if all(file.is_file() for file in source.weights) else None


def _has_configs(path: Path) -> bool:
    """Whether the configs lie beside the weights. Libraries cache only what they read themselves, often not all."""
    source = folder.of(path)
    if source.config is None:
        return False
    return source.preprocessor is not None or "model_type" not in folder.read_json(source.config)


def _downloaded(library: ModuleType, repository: str, revision: str, spelled: str) -> Path:
    """Download what is read of the repository. Raises: as `snapshot`."""
    errors = library.errors
    # Whatever library it asks through: its base class of all failed requests is a base of the hub's own.
    http = tuple(c for c in errors.HfHubHTTPError.__mro__ if c.__name__ in ("HTTPError", "RequestException"))
    try:
        with files.storage_errors(Path(library.constants.HF_HUB_CACHE)):
            there = [s.rfilename for s in library.HfApi().model_info(repository, revision=revision).siblings or []]
            wanted = _wanted(library, repository, revision, there, spelled)
            return Path(library.snapshot_download(repository, revision=revision, allow_patterns=list(wanted)))
    except EvaltkError:
        raise
    except (OSError, ValueError, errors.EntryNotFoundError, *http) as error:
        raise _explained(errors, error, repository, revision, spelled) from error


def _wanted(library: ModuleType, repository: str, revision: str, there: Sequence[str], spelled: str) -> tuple[str, ...]:
    """The files of a repository that are read."""

    def read(name: str) -> dict[str, Any]:
        return folder.read_json(Path(library.hf_hub_download(repository, name, revision=revision)))

    top = [name for name in there if "/" not in name]
    picked = folder.pick(top, read, spelled)
    if picked is None:
        for name, what, do in folder.OTHERS:
            if name in top:
                raise CheckpointError(wanted="PyTorch weights", got=what, where=spelled, do=do)
        do = "download the file that holds the net, and name its path"
        got = f"files {some(sorted(top), 5) or 'none'}"
        wanted = "a repository with model.safetensors or pytorch_model.bin"
        raise CheckpointError(wanted=wanted, got=got, where=spelled, do=do)
    weights, placed, config = picked
    indices = [index for _, index, _ in folder.HUB if placed and index in top]
    return (*weights, *indices, *(name for name in (config, folder.PREPROCESSOR) if name in top))


def _explained(errors: Any, error: Exception, repository: str, revision: str, spelled: str) -> EvaltkError:
    """The hub's error in our words: what is wrong, and what to do."""
    got = str(error).strip().split("\n")[0][:120] or type(error).__name__
    page = f"https://huggingface.co/{repository}"
    if isinstance(error, errors.GatedRepoError):
        got = "a gated repository"
        do = f"accept its terms on {page}, then log in on this machine: hf auth login"
    elif isinstance(error, errors.RevisionNotFoundError):
        got = f"no revision {revision!r}"
        do = f"name a branch, tag or commit of {page}/tree/{MAIN}, or leave @{revision} out"
    elif isinstance(error, errors.RepositoryNotFoundError):
        got = "no such repository, or a private one"
        do = f"check the spelling of {repository}; for a private one log in on this machine: hf auth login"
    elif isinstance(error, errors.HFValidationError):
        do = "write it as the hub does, as in hf:facebook/dinov2-small"
    elif isinstance(error, errors.OfflineModeIsEnabled):
        got = "a repository that is not in the cache, and the hub is switched off (HF_HUB_OFFLINE)"
        do = "unset HF_HUB_OFFLINE, or download the folder elsewhere and name its path"
    else:
        do = "check the network and its proxy, or download the folder elsewhere and name its path"
    return DownloadError(wanted=f"the repository {repository}", got=got, where=spelled, do=do)
