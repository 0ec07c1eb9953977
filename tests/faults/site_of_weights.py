"""A server on this machine that sends one file of weights, in parts where it is asked to."""

from __future__ import annotations

import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = random.Random(0).randbytes(4_000_000)


class Handler(BaseHTTPRequestHandler):
    """Answers GET, with ranges and an entity tag."""

    def do_GET(self) -> None:
        first = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(BODY) - 1}/{len(BODY)}")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(BODY) - first))
        self.end_headers()
        try:
            self.wfile.write(BODY[first:])
        except OSError:
            self.close_connection = True  # the command was killed

    def log_message(self, *args: object) -> None:
        """Nothing."""


class Site:
    """Serves until it is closed."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def catalogue(self) -> str:
        """A catalogue with the file as `net`."""
        url = f"http://127.0.0.1:{self.server.server_port}/net.bin"
        entry = {"url": url, "family": "dino", "arch": "vit_small_patch16_224", "method": "DINO", "title": "T"}
        entry |= {"kind": "backbone", "licence": "MIT"}
        return "[checkpoints.net]\n" + "".join(f'{key} = "{value}"\n' for key, value in entry.items())

    def close(self) -> None:
        """Stop."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
