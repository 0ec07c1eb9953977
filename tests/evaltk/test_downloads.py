"""Downloads of catalogued files: pinned, resumed, refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import threading
from pathlib import Path

import pytest
from download_site import BODY, SHA, Site, leave_part, part_of, serve  # noqa: F401

from evaltk.checkpoints import catalog, download
from evaltk.errors import DownloadError, SettingsError, StorageError


def test_plain_download_is_pinned_and_leaves_nothing_else(site: Site, tmp_path: Path) -> None:
    counted: list[int] = []
    path = catalog.fetch(site.entry(), home=tmp_path, advance=counted.append)
    assert path == tmp_path / "checkpoints" / "net" / "net.pth" == catalog.local_path(site.entry(), home=tmp_path)
    assert path.read_bytes() == BODY
    assert sum(counted) == len(BODY)
    assert "Range" not in site.seen[0]
    pin = json.loads((tmp_path / "pins.json").read_text())["net"]
    assert (pin["url"], pin["sha256"], pin["bytes"]) == (site.url, SHA, len(BODY))
    assert catalog.verify(path, "net", home=tmp_path) == SHA
    assert sorted(p.name for p in path.parent.iterdir()) == [".net.pth.lock", "net.pth"]


def test_second_call_asks_nobody(site: Site, tmp_path: Path) -> None:
    first = catalog.fetch(site.entry(), home=tmp_path)
    pins = (tmp_path / "pins.json").stat()
    assert catalog.fetch(site.entry(), home=tmp_path) == first
    assert len(site.seen) == 1
    assert (tmp_path / "pins.json").stat().st_ino == pins.st_ino  # the date of the first download stays


def test_broken_download_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.drops = [100_000, 50_000]
    path = catalog.fetch(site.entry(), home=tmp_path)
    assert path.read_bytes() == BODY
    assert [seen.get("Range") for seen in site.seen] == [None, "bytes=100000-", "bytes=150000-"]
    assert site.seen[1]["If-Range"] == '"one"'


def test_a_later_run_goes_on_too(site: Site, tmp_path: Path) -> None:
    leave_part(site, tmp_path, 120_000)
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY
    assert [seen["Range"] for seen in site.seen] == ["bytes=120000-"]


def test_whole_part_needs_no_request(site: Site, tmp_path: Path) -> None:
    leave_part(site, tmp_path, len(BODY))
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY
    assert site.seen == []


def test_part_of_unknown_origin_is_not_built_upon(site: Site, tmp_path: Path) -> None:
    leave_part(site, tmp_path, 1000)
    Path(f"{part_of(tmp_path)}.json").write_text("{")
    part_of(tmp_path).write_bytes(b"x" * 1000)
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY
    assert "Range" not in site.seen[0]


def test_part_of_another_address_is_not_built_upon(site: Site, tmp_path: Path) -> None:
    leave_part(site, tmp_path, 1000, url=site.url.replace("weights", "elsewhere"))
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY
    assert "Range" not in site.seen[0]


def test_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drops = False, [100_000]
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY
    assert [seen.get("Range") for seen in site.seen] == [None, "bytes=100000-"]


@pytest.mark.parametrize("honours", [True, False], ids=["server-checks", "we-check"])
@pytest.mark.parametrize("change", ["etag", "modified", "total"])
def test_file_that_changed_meanwhile_starts_over(site: Site, tmp_path: Path, change: str, honours: bool) -> None:
    old = {"etag": '"old"', "modified": "Mon, 01 Jan 2024 00:00:00 GMT", "total": len(BODY) + 5}
    leave_part(site, tmp_path, 100_000, **{change: old[change]})
    part_of(tmp_path).write_bytes(b"x" * 100_000)
    site.modified, site.honours_if_range = "Tue, 02 Jan 2024 00:00:00 GMT", honours
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY
    assert site.seen[0]["Range"] == "bytes=100000-"


def test_416_of_a_shrunken_file_starts_over(site: Site, tmp_path: Path) -> None:
    leave_part(site, tmp_path, 200_000)
    site.body = BODY[:150_000]
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY[:150_000]


def test_416_when_all_is_there_already(site: Site, tmp_path: Path) -> None:
    leave_part(site, tmp_path, len(BODY), total=None)
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY
    assert len(site.seen) == 1


def test_chunked_body(site: Site, tmp_path: Path) -> None:
    site.chunked, site.drops = True, [100_000]
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY


def test_passing_errors_are_tried_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY


def test_many_at_once_download_once(site: Site, tmp_path: Path) -> None:
    found: list[Path] = []
    workers = [
        threading.Thread(target=lambda: found.append(catalog.fetch(site.entry(), home=tmp_path))) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [path.read_bytes() == BODY for path in found] == [True] * 4
    assert len(site.seen) == 1


def refused(site: Site, home: Path, *words: str, **more: object) -> str:
    with pytest.raises(DownloadError) as caught:
        catalog.fetch(site.entry(**more), home=home)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not catalog.local_path(site.entry(), home=home).exists()
    return message


def test_other_bytes_than_pinned(site: Site, tmp_path: Path) -> None:
    path = catalog.fetch(site.entry(), home=tmp_path)
    path.unlink()
    site.body = BODY[::-1]
    got = hashlib.sha256(site.body).hexdigest()
    refused(site, tmp_path, SHA, got, "pins.json", "net.pth.mismatch")
    assert path.with_name("net.pth.mismatch").read_bytes() == site.body
    assert catalog.pins(home=tmp_path)["net"]["sha256"] == SHA
    site.body = BODY
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY


def test_existing_file_that_was_damaged(site: Site, tmp_path: Path) -> None:
    path = catalog.fetch(site.entry(), home=tmp_path)
    path.write_bytes(BODY[:-1])
    refused(site, tmp_path, SHA, str(path))
    assert path.with_name("net.pth.mismatch").read_bytes() == BODY[:-1]
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY


def test_other_bytes_than_the_catalogue_says(site: Site, tmp_path: Path) -> None:
    message = refused(site, tmp_path, "0" * 64, SHA, sha256="0" * 64)
    assert "delete" not in message  # the pin does not matter here
    assert catalog.pins(home=tmp_path) == {}
    catalog.fetch(site.entry(sha256=SHA), home=tmp_path)
    assert catalog.pins(home=tmp_path)["net"]["sha256"] == SHA


@pytest.mark.parametrize("name", ["md5", "sha256"])
def test_digits_that_the_authors_publish(site: Site, tmp_path: Path, name: str) -> None:
    known = hashlib.new(name, BODY).hexdigest()[:8]
    message = refused(site, tmp_path, f"wanted the {name} 00000000...", known, **{f"{name}_prefix": "00000000"})
    assert "net.pth.mismatch" in message and catalog.pins(home=tmp_path) == {}
    entry = site.entry(**{f"{name}_prefix": known})
    assert catalog.fetch(entry, home=tmp_path).read_bytes() == BODY
    assert catalog.fetch(entry, home=tmp_path).read_bytes() == BODY  # known by its pin from now on


def test_file_without_a_public_address(site: Site, tmp_path: Path) -> None:
    entry = site.entry(url="", get="ask its authors", file="net.pth")
    with pytest.raises(DownloadError, match=r"ask its authors; put the file at .*net\.pth; then `evaltk fetch net`"):
        catalog.fetch(entry, home=tmp_path)
    catalog.local_path(entry, home=tmp_path).write_bytes(BODY)
    assert catalog.fetch(entry, home=tmp_path).name == "net.pth"
    assert catalog.pins(home=tmp_path)["net"]["sha256"] == SHA
    assert site.seen == []


def test_folder_on_the_hub_is_named_by_its_address(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="evaltk run hf:facebook/dinov2-small"):
        catalog.fetch(site.entry(url="hf:facebook/dinov2-small"), home=tmp_path)
    with pytest.raises(SettingsError, match="fetch nothing: `evaltk run hf:facebook/dinov2-small"):
        catalog.find("hf:facebook/dinov2-small")


def test_verify(site: Site, tmp_path: Path) -> None:
    path = catalog.fetch(site.entry(), home=tmp_path)
    with pytest.raises(DownloadError, match="evaltk fetch other"):
        catalog.verify(path, "other", home=tmp_path)
    path.write_bytes(b"other weights")
    with pytest.raises(DownloadError, match=f"wanted sha256 {SHA}"):
        catalog.verify(path, "net", home=tmp_path)
    assert not path.exists()


def test_file_put_there_by_hand_is_pinned(site: Site, tmp_path: Path) -> None:
    path = catalog.local_path(site.entry(), home=tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert catalog.fetch(site.entry(), home=tmp_path) == path
    assert catalog.pins(home=tmp_path)["net"]["sha256"] == SHA
    assert site.seen == []


@pytest.mark.parametrize("status", [403, 404])
def test_final_statuses_are_not_tried_again(site: Site, tmp_path: Path, status: int) -> None:
    site.statuses = [status] * 9
    refused(site, tmp_path, f"HTTP status {status}", site.url)
    assert len(site.seen) == 1


def test_server_error_is_given_up_after_some_tries(site: Site, tmp_path: Path) -> None:
    site.statuses = [500] * 9
    refused(site, tmp_path, "HTTP status 500", site.url)
    assert len(site.seen) == download.TRIES


@pytest.mark.parametrize(
    ("kind", "body"),
    [("text/html; charset=utf-8", b"sorry"), ("application/octet-stream", b"\n<!DOCTYPE html><p>"), ("", b"<HTML>")],
)
def test_web_page_instead_of_weights(site: Site, tmp_path: Path, kind: str, body: bytes) -> None:
    leave_part(site, tmp_path, 1000)
    site.kind, site.body, site.ranges = kind, body, False
    refused(site, tmp_path, "a web page", site.url)
    assert part_of(tmp_path).read_bytes() == BODY[:1000]  # what was held is not lost to a captive portal
    assert catalog.pins(home=tmp_path) == {}


def test_truncated_body(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drops = False, [100_000] * 9
    refused(site, tmp_path, "wanted 300000 bytes", "got 100000 bytes")
    assert catalog.pins(home=tmp_path) == {}
    site.ranges, site.drops = True, []
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY
    assert site.seen[-1]["Range"] == "bytes=100000-"


def test_empty_body(site: Site, tmp_path: Path) -> None:
    site.body = b""
    refused(site, tmp_path, "an empty answer")


def test_body_of_untold_length(site: Site, tmp_path: Path) -> None:
    site.tells_length = False
    refused(site, tmp_path, "unknown length")


def test_nobody_answers(site: Site, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/net.pth"
    message = refused(site, tmp_path, "an answer", url, "refused", url=url)
    assert str(tmp_path / "checkpoints" / "net" / "net.pth") in message


def test_home_that_is_no_folder(site: Site, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match="a folder to write into"):
        catalog.fetch(site.entry(), home=blocked)
    assert site.seen == []


def test_full_disk_keeps_what_was_received(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, []

    def full(fd: int) -> None:
        calls.append(fd)
        if len(calls) > 1:  # the first is that of the note beside the part
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="no space left"):
            catalog.fetch(site.entry(), home=tmp_path)
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY
    assert len(site.seen) == 1


def test_damaged_pins(site: Site, tmp_path: Path) -> None:
    for text in ("{", "[]", '{"net": {}}', '{"net": 1}'):
        (tmp_path / "pins.json").write_text(text)
        with pytest.raises(StorageError, match=r"pins\.json"):
            catalog.fetch(site.entry(), home=tmp_path)
