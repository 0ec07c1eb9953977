"""Catalogued files that are fetched when they are named, public datasets, and archives that mean harm."""

from __future__ import annotations

import hashlib
import io
import logging
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from download_site import BODY, Site, serve  # noqa: F401

from evaltk import cli
from evaltk.checkpoints import catalog, fetching
from evaltk.cli import _dataset_files
from evaltk.data import archives
from evaltk.errors import DataError, DownloadError, SettingsError


def tar(path: Path, names: dict[str, bytes], **odd: Callable[[tarfile.TarInfo], None]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name, body in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            made.addfile(info, io.BytesIO(body))
        for name, change in odd.items():
            info = tarfile.TarInfo(name)
            change(info)
            made.addfile(info)
    return path


def test_archives_are_opened(tmp_path: Path) -> None:
    files = {"a/1.jpg": b"one", "a/b/2.jpg": b"two", "list.txt": b"x"}
    archives.unpack(tar(tmp_path / "x.tgz", files), tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        for name, body in files.items():
            made.writestr(name, body)
    archives.unpack(tmp_path / "x.zip", tmp_path / "zip")
    for folder in (tmp_path / "out", tmp_path / "zip"):
        assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files


def link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"


def device(info: tarfile.TarInfo) -> None:
    info.type = tarfile.CHRTYPE


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:/evil", "..\\evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_that_climbs_out_writes_nothing(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "in" / f"bad.{kind}"
    path.parent.mkdir()
    if kind == "tar":
        tar(path, {"good.jpg": b"x", name: b"evil"})
    else:
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("good.jpg", b"x")
            made.writestr(name, b"evil")
    with pytest.raises(DataError, match="names that lead out of the folder"):
        archives.unpack(path, tmp_path / "in" / "out")
    assert not list((tmp_path / "in" / "out").rglob("*")) and not list(tmp_path.glob("evil"))


def test_links_devices_bombs_and_damage_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change in (link, device):
        with pytest.raises(DataError, match="links or devices: odd"):
            archives.unpack(tar(tmp_path / "bad.tar", {"good.jpg": b"x"}, odd=change), tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as made:
        info = zipfile.ZipInfo("odd")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="links or devices"):
        archives.unpack(tmp_path / "link.zip", tmp_path / "out")
    monkeypatch.setattr(archives, "TIMES", 2)
    with pytest.raises(DataError, match="wanted an archive of images"):
        archives.unpack(tar(tmp_path / "bomb.tgz", {"zeros": bytes(3 << 20)}), tmp_path / "out")
    whole = tar(tmp_path / "cut.tgz", {"a.bin": BODY}).read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="wanted a whole archive"):
        archives.unpack(tmp_path / "cut.tgz", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


def public(site: Site, body: bytes, md5: str | None = None) -> dict[str, _dataset_files.Public]:
    site.body = body
    file = _dataset_files.File(url=site.url.replace("net.pth", "photos.tgz"), md5=md5 or hashlib.md5(body).hexdigest())
    return {"photos": _dataset_files.Public(name="photos", files=(file,), licence="MIT", root="photos")}


def test_a_dataset_is_fetched_checked_and_opened(site: Site, tmp_path: Path) -> None:
    body = tar(tmp_path / "x.tgz", {"photos/train/a/1.jpg": b"x" * 1000}).read_bytes()
    known, said = public(site, body), []
    site.drops = [len(body), 100]  # the download itself breaks once
    root = _dataset_files.fetch("photos", tmp_path / "data", known=known, say=said.append)
    assert root == tmp_path / "data" / "photos" and (root / "train/a/1.jpg").read_bytes() == b"x" * 1000
    assert "licence: MIT; MD5 " in said[0] and hashlib.sha256(body).hexdigest() in said[1]
    asked = len(site.seen)
    assert _dataset_files.fetch("photos", tmp_path / "data", known=known, say=said.append) == root
    assert len(site.seen) == asked and len(said) == 2  # the second time nobody is asked
    site.body = b"gone"
    (tmp_path / "hand").mkdir()
    (tmp_path / "hand" / "photos.tgz").write_bytes(body)  # put there by hand
    assert (_dataset_files.fetch("photos", tmp_path / "hand", known=known, say=said.append) / "train").is_dir()


def test_other_bytes_than_published_are_set_aside(site: Site, tmp_path: Path) -> None:
    known = public(site, BODY, md5="0" * 32)
    with pytest.raises(DownloadError, match="wanted MD5 0000"):
        _dataset_files.fetch("photos", tmp_path, known=known, say=lambda text: None)
    assert [p.name for p in tmp_path.iterdir()] == ["photos.tgz.mismatch"]
    with pytest.raises(SettingsError, match="did you mean 'photos'"):
        _dataset_files.fetch("photo", tmp_path, known=known, say=lambda text: None)


def test_a_dataset_that_cannot_be_downloaded_can_be_put_there(site: Site, tmp_path: Path) -> None:
    """Each error names no weights and no flag of another command; what it advises is done, and leads on."""
    body = tar(tmp_path / "x.tgz", {"photos/train/a/1.jpg": b"x" * 1000}).read_bytes()
    known, place = public(site, body), tmp_path / "data" / "photos.tgz"
    for fault in (
        {"statuses": [403] * 2},
        {"redirects": ["http://user@[::1"] * 2},
        {"body": b"<html>", "kind": "text/html"},
    ):
        for name, value in fault.items():
            setattr(site, name, value)
        with pytest.raises(DownloadError) as raised:
            _dataset_files.fetch("photos", place.parent, known=known, say=lambda text: None)
        assert "weights" not in raised.value.wanted and "--" not in str(raised.value), str(raised.value)
        assert str(raised.value).endswith(f"put it at {place}")
        assert [p.name for p in place.parent.iterdir()] == []
    place.with_name("photos.tgz.part").write_bytes(body[:100])  # of a try that got further
    place.write_bytes(body)
    assert (_dataset_files.fetch("photos", place.parent, known=known, say=lambda text: None) / "train").is_dir()
    assert sorted(p.name for p in place.parent.iterdir()) == [".photos.tgz.fetched", "photos"]


def test_two_downloads_into_one_folder(site: Site, tmp_path: Path) -> None:
    known = public(site, tar(tmp_path / "x.tgz", {"photos/train/a/1.jpg": b"x"}).read_bytes())
    second = (
        "import sys, pathlib, evaltk.cli._dataset_files as d\n"
        "d.fetch('photos', pathlib.Path(sys.argv[1]), known={'photos': d.Public(name='photos', files=(), licence='')},"
        " say=print)"
    )

    def say(text: str) -> None:  # while the first one downloads
        command = [sys.executable, "-c", second, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "wanted a folder without a download under way; got one by process" in done.stderr

    assert _dataset_files.fetch("photos", tmp_path, known=known, say=say).is_dir()


def test_another_address_is_tried_and_compared_with_the_same_checksum(site: Site, tmp_path: Path) -> None:
    site.body = tar(tmp_path / "x.tgz", {"photos/train/a/1.jpg": b"x" * 1000}).read_bytes()
    url, sha256 = site.url.replace("net.pth", "photos.tgz"), hashlib.sha256(site.body).hexdigest()

    def fetch(folder: str, digest: str) -> list[str]:
        said: list[str] = []
        file = _dataset_files.File(url=url, mirrors=(f"{url}?mirror",), sha256=digest)
        known = {"photos": _dataset_files.Public(name="photos", files=(file,), licence="MIT")}
        site.statuses = [404, 404]  # the size, and the file
        _dataset_files.fetch("photos", tmp_path / folder, known=known, say=said.append)
        return said

    said = fetch("one", sha256)
    assert "HTTP status 404" in said[1] and said[1].endswith("trying another address") and "?mirror" in said[2]
    assert (tmp_path / "one" / "photos/train/a/1.jpg").is_file() and f"sha256 {sha256}" in said[0]
    with pytest.raises(DownloadError, match="wanted sha256 0000"):
        fetch("two", "0" * 64)
    assert [p.name for p in (tmp_path / "two").iterdir()] == ["photos.tgz.mismatch"]


def test_every_file_has_a_checksum_or_says_that_there_is_none() -> None:
    for one in _dataset_files.table().values():
        for file in one.files:
            assert len(file.md5) in (0, 32) and len(file.sha256) in (0, 64) and (file.md5 or file.sha256), file.url
    assert "that of this download is kept" in _dataset_files.File(url="https://example.org/x.zip").checks


def test_the_table_is_torchvision_s() -> None:
    from torchvision import datasets as theirs

    known = {file.url: file.md5 for one in _dataset_files.table().values() for file in one.files}
    pairs = {theirs.CIFAR10.url: theirs.CIFAR10.tgz_md5, theirs.CIFAR100.url: theirs.CIFAR100.tgz_md5}
    pairs |= {theirs.DTD._URL: theirs.DTD._MD5, theirs.Food101._URL: theirs.Food101._MD5}
    pairs |= dict(theirs.OxfordIIITPet._RESOURCES)
    pairs[theirs.SUN397._DATASET_URL] = theirs.SUN397._DATASET_MD5
    flowers = theirs.Flowers102
    pairs |= {flowers._download_url_prefix + name: md5 for name, md5 in flowers._file_dict.values()}
    assert {url: known.get(url) for url in pairs} == pairs and theirs.FGVCAircraft._URL in known


def test_the_command_wants_a_name_and_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["datasets", "fetch", "cifar10"]) == 2
    assert "do: evaltk datasets fetch NAME DIR" in capsys.readouterr().err
    assert cli.main(["datasets", "fetch", "cifar11", "x"]) == 2
    assert "did you mean 'cifar10'" in capsys.readouterr().err


def test_a_named_checkpoint_is_fetched_unless_offline(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EVALTK_HOME", str(tmp_path))
    monkeypatch.setattr(catalog, "load", lambda: {"net": site.entry()})
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "")
    fetching.fetch_named(["net"], offline=True)
    fetching.fetch_named(["pixels:8", str(tmp_path), "other"], offline=False)
    assert not site.seen
    with caplog.at_level(logging.INFO, logger="evaltk"):
        fetching.fetch_named(["net", "net"], offline=False)
    assert catalog.local_path(site.entry()).read_bytes() == BODY
    (line,) = [r.getMessage() for r in caplog.records if "licence" in r.getMessage()]
    assert line == f"fetching net from {site.url}, 0.3 MB; licence of the weights: MIT"
    asked = len(site.seen)
    fetching.fetch_named(["net"], offline=False)
    assert len(site.seen) == asked
