"""A server on this machine that sends one file, and misbehaves on demand."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from evaltk.checkpoints import catalog, download

BODY = random.Random(0).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


@dataclass
class Site:
    """What the server serves, how it misbehaves, and which requests it saw."""

    body: bytes = BODY
    etag: str = '"one"'
    modified: str = ""
    kind: str = "application/octet-stream"
    statuses: list[int] = field(default_factory=list)  # answered first, one a request
    drops: list[int] = field(default_factory=list)  # bytes after which the connection breaks, one a request
    ranges: bool = True
    honours_if_range: bool = True
    chunked: bool = False
    tells_length: bool = True
    seen: list[dict[str, str]] = field(default_factory=list)
    redirects: list[str] = field(default_factory=list)  # where the first requests are sent, one a request
    url: str = ""

    def entry(self, **more: object) -> catalog.Entry:
        given = {"name": "net", "url": self.url, "family": "dino", "arch": "vit", "title": "Net", "method": "DINO"}
        return catalog.Entry(**{**given, "licence": "MIT", **more})  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.seen.append(dict(self.headers))
        if site.redirects:
            self.send_response(302)
            self.send_header("Location", site.redirects.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if site.statuses:
            self.send_error(site.statuses.pop(0))
            return
        first = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if not site.ranges or (site.honours_if_range and self.headers.get("If-Range", site.etag) != site.etag):
            first = 0
        if first >= len(site.body) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(site.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        part = site.body[first:]
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(site.body) - 1}/{len(site.body)}")
        for name, value in (("ETag", site.etag), ("Last-Modified", site.modified), ("Content-Type", site.kind)):
            if value:
                self.send_header(name, value)
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            part = b"%x\r\n%s\r\n0\r\n\r\n" % (len(part), part)
        elif site.tells_length:
            self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[: site.drops.pop(0)] if site.drops else part)
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(name="site")
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "WAIT_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Site()
    handler = type("OneSite", (Handler,), {"site": made, "protocol_version": "HTTP/1.1"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.url = f"http://127.0.0.1:{server.server_port}/weights/net.pth"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def part_of(home: Path) -> Path:
    return home / "checkpoints" / "net" / "net.pth.part"


def leave_part(site: Site, home: Path, held: int, **more: object) -> None:
    """As an earlier run left it that was stopped after `held` bytes."""
    part = part_of(home)
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:held])
    state = {"url": site.url, "total": len(BODY), "etag": '"one"', "modified": ""} | more
    Path(f"{part}.json").write_text(json.dumps(state))
