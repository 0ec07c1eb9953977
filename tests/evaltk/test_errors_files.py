"""Errors of one line that travel between processes; files written whole or not at all."""

from __future__ import annotations

import errno
import os
import pickle
import stat
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import pytest

from evaltk import errors, files
from evaltk.errors import (
    CheckpointError,
    DataError,
    DownloadError,
    EvaltkError,
    SettingsError,
    StorageError,
    nearest,
    printable,
)

KINDS = (CheckpointError, DataError, SettingsError, StorageError, DownloadError)


def test_the_form_of_a_message() -> None:
    error = EvaltkError(wanted="a file", got="none", where=Path("x/y"), do="name one")
    assert str(error) == "wanted a file; got none; where: x/y; do: name one"
    assert (error.wanted, error.got, error.where, error.do) == ("a file", "none", "x/y", "name one")
    assert error.exit_code == 2
    assert str(EvaltkError(wanted="a file", got="none")) == "wanted a file; got none"


def test_a_message_is_one_line_of_printable_characters() -> None:
    error = EvaltkError(wanted="a\nb", got="c \r\n d\t\x1b[31m\x07", where="e  f", do="g\u2028h \ud800")
    assert str(error) == r"wanted a b; got c d \x1b[31m\x07; where: e  f; do: g\u2028h \ud800"
    str(error).encode()
    assert printable("naïve 日本 °") == "naïve 日本 °"


def test_a_word_that_no_name_can_be_is_cut() -> None:
    path = "/".join(["f" * 255] * 4)  # as long as names may be
    error = EvaltkError(wanted="a key", got=f"model_type {'a' * 5000!r}", where=path, do=f"evaltk inspect {path}")
    assert error.got == f"model_type '{'a' * 59}..." and error.where == path and error.do.endswith(path)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_pickling(kind: type[EvaltkError]) -> None:
    error = kind(wanted="w", got="g", where=Path("p"), do="d")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert isinstance(again, EvaltkError)
    assert (str(again), again.where, again.do) == (str(error), "p", "d")


def fail(kind: str) -> None:
    raise getattr(errors, kind)(wanted="w", got="g", where="worker", do="d")


def test_errors_come_out_of_worker_processes() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for kind in KINDS:
            with pytest.raises(kind, match="where: worker; do: d"):
                pool.submit(fail, kind.__name__).result(timeout=600)


@pytest.mark.parametrize(
    ("name", "known", "told"),
    [
        ("knm", ["knn", "linear"], "did you mean 'knn'? there are: knn, linear"),
        ("linaer", ["knn", "linear", "line"], "did you mean 'linear' or 'line'? there are: knn, line, linear"),
        ("xyzzy", ["knn", "linear"], "there are: knn, linear"),
        ("", [], "there are none"),
        ("knn", ["knn", "knn"], "did you mean 'knn'? there are: knn"),
    ],
)
def test_nearest(name: str, known: list[str], told: str) -> None:
    assert nearest(name, known) == told
    assert nearest(name, iter(known)) == told


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.endswith(".part"))


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.txt"
    files.write_text(path, "old")
    files.write_text(path, "neu: ü")
    assert path.read_text(encoding="utf-8") == "neu: ü"
    assert leftovers(path.parent) == []


def test_a_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "out", "x")
        (tmp_path / "plain").write_text("x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("out", "plain")]
    assert modes == [0o640, 0o640]


class Unexpected(BaseException):
    pass


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), Unexpected(), OSError(errno.ENOENT, "x")])
def test_a_write_that_fails_leaves_the_old_file(failure: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    files.write_text(path, "old")

    def fill(stream: BinaryIO) -> None:
        stream.write(b"half of the new")
        raise failure

    with pytest.raises(type(failure)):
        files.write(path, fill)
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, ("space to write", "no space left on the disk", "free some space")),
        (errno.EDQUOT, ("space to write", "free some space")),
        (errno.EFBIG, ("space to write",)),
        (errno.EACCES, ("permission denied", "choose a folder you can write to")),
        (errno.EROFS, ("permission denied",)),
        (errno.EIO, ("check the disk",)),
    ],
)
def test_what_the_system_says_becomes_one_line(number: int, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    files.write_text(path, "old")

    def fill(stream: BinaryIO) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(StorageError) as caught:
        files.write(path, fill)
    for word in (*words, str(path)):
        assert word in str(caught.value)
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


class Full:
    """A stream on a full disk."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def write(self, data: bytes) -> int:
        if self.stream.tell() > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def test_a_full_disk_under_torch_save(tmp_path: Path) -> None:
    """torch.save reports it as a RuntimeError about positions."""
    import torch

    path = tmp_path / "net.pth"
    files.write_text(path, "old")
    with pytest.raises(StorageError, match="no space left"):
        files.write(path, lambda stream: torch.save({"a": torch.zeros(100_000)}, Full(stream)))  # type: ignore[arg-type]
    assert path.read_text() == "old"


def test_a_full_disk_for_real(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(StorageError, match="no space left"), files.storage_errors(tmp_path):
        Path("/dev/full").write_bytes(b"x")


def test_errors_that_are_not_the_disks_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), files.storage_errors(tmp_path):
        raise RuntimeError("a bug")
    with pytest.raises(FileNotFoundError), files.storage_errors(tmp_path):
        (tmp_path / "nothing").read_text()


def test_places_that_cannot_be_written_into(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    (tmp_path / "folder").mkdir()
    for path in (file / "out.txt", file / "deeper" / "out.txt", tmp_path / "folder", tmp_path / ("n" * 300)):
        with pytest.raises(StorageError, match="choose another path"):
            files.write_text(path, "new")
    assert file.read_text() == "old"
    with pytest.raises(StorageError, match="choose another path"):
        files.make_folder(file)
    assert leftovers(tmp_path) == []


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120 + ".json")
    files.write_text(path, "x")
    assert path.read_text() == "x"


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="permission denied"):
        files.write_text(tmp_path / "closed" / "out", "x")


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert files.sha256(tmp_path / "abc") == wanted


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/a/checkpoint.pth", "a/checkpoint"),
        ("runs/a/checkpoint-epoch0020.pth", "a/checkpoint-epoch0020"),
        ("ibot/vits_16/checkpoint_teacher.pth", "vits_16/checkpoint_teacher"),
        ("a/model.safetensors", "a/model"),
        ("a/vits16_800ep.pth.tar", "vits16_800ep"),
        ("a/dino_deitsmall16_pretrain_full_checkpoint.pth", "dino_deitsmall16_pretrain_full_checkpoint"),
        ("a/modelling.pt", "modelling"),
        ("a/.pth", ".pth"),
    ],
)
def test_files_of_a_common_name_are_called_after_their_folder(path: str, name: str) -> None:
    assert files.weights_name(Path(path)) == name


def test_what_lies_below_a_folder_that_others_work_in(tmp_path: Path) -> None:
    for name in ("b/x.json", "a/y.json", "a/z.txt", "c.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    stop = threading.Event()

    def claim() -> None:
        while not stop.is_set():
            (tmp_path / "a/x.claim-0").mkdir()
            (tmp_path / "a/x.claim-0").rmdir()

    other = threading.Thread(target=claim)
    other.start()
    try:
        for _ in range(300):
            assert files.below(tmp_path, "*.json") == [tmp_path / n for n in ("a/y.json", "b/x.json", "c.json")]
    finally:
        stop.set()
        other.join()
    assert files.below(tmp_path / "none", "*") == []
