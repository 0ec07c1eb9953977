"""Where downloads may be sent, and what is not begun."""

from __future__ import annotations

import http.client
import io
import shutil
import urllib.request
from pathlib import Path

import pytest
from download_site import BODY, Site, leave_part, serve  # noqa: F401

from evaltk.checkpoints import catalog, download, redirects
from evaltk.errors import DownloadError, StorageError


@pytest.mark.parametrize(
    ("start", "target", "says"),
    [
        ("https://93.184.215.14/net.pth", "http://93.184.215.14/net.pth", "from https to http"),
        ("https://93.184.215.14/net.pth", "https://169.254.169.254/latest", "to a private one"),
        ("https://93.184.215.14/net.pth", "https://[::1]/net.pth", "to a private one"),
        ("http://93.184.215.14/net.pth", "http://localhost:8080/net.pth", "to a private one"),
        ("http://127.0.0.1/net.pth", "ftp://127.0.0.1/net.pth", "to a ftp address"),
        ("http://127.0.0.1/net.pth", "file:///etc/passwd", "to a file address"),
        ("http://127.0.0.1/net.pth", "http://10.0.0.7/net.pth", None),
        ("http://93.184.215.14/net.pth", "https://93.184.215.15/net.pth", None),
        ("https://93.184.215.14/net.pth", "https://nowhere.invalid/net.pth", None),
    ],
)
def test_which_redirects_are_followed(start: str, target: str, says: str | None) -> None:
    request = urllib.request.Request(start)
    given = (request, io.BytesIO(), 302, "Found", http.client.HTTPMessage(), target)
    if says is None:
        assert redirects.Redirects().redirect_request(*given).full_url == target
        return
    with pytest.raises(DownloadError, match=says) as raised:
        redirects.Redirects().redirect_request(*given)
    assert start in str(raised.value) and len(raised.value.brief()) < 300


def test_a_redirect_is_followed_and_a_refused_one_says_so(site: Site, tmp_path: Path) -> None:
    site.redirects = [site.url]
    assert catalog.fetch(site.entry(), home=tmp_path).read_bytes() == BODY
    site.redirects = ["file:///etc/passwd"]
    with pytest.raises(DownloadError, match="'file:///etc/passwd' is not allowed"):
        catalog.fetch(site.entry(name="other"), home=tmp_path)
    assert not list((tmp_path / "checkpoints" / "other").glob("*.pth"))


def test_a_file_larger_than_the_disk_is_not_begun(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=len(BODY) - 1))
    with pytest.raises(StorageError, match="wanted room for"):
        catalog.fetch(site.entry(), home=tmp_path)
    leave_part(site, tmp_path / "resumed", 2)  # what lies there already needs no room
    assert catalog.fetch(site.entry(), home=tmp_path / "resumed").read_bytes() == BODY
