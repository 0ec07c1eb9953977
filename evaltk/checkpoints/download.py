"""One URL into one file: streamed, resumed where it stopped, and never half a file taken for a whole one."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import urllib.error
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from evaltk import progress, safe_json
from evaltk.checkpoints.redirects import open_url
from evaltk.errors import DownloadError, StorageError
from evaltk.files import storage_errors, write_text

TRIES, WAIT_S, TIMEOUT_S = 5, 1.0, 30.0  # tries that get no further; first pause, doubled each time; silence allowed
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that may be gone at the next try
BLOCK = 1 << 20  # bytes


def download(url: str, part: Path, *, title: str, room: str, advance: Callable[[int], None]) -> None:
    """Fill `part` with the whole body of `url`, trying again while that gets further.

    A file that its user puts at the path of `part` without ``.part`` has to be taken instead by the next run.

    Args:
        title: of the bar. room: how to choose a folder with more room. advance: gets the bytes of each block.

    Raises: DownloadError, StorageError: no room, no right to write.
    """
    tries, furthest = 0, -1
    while True:
        try:
            if _attempt(url, part, title, room, advance):
                return
            problem = "the connection was closed"
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"HTTP status {error.code} {error.reason}".strip()
            if error.code not in PASSING:
                do = f"see whether the file has moved; {by_hand(part)}"
                raise DownloadError(wanted="the file", got=problem, where=url, do=do) from error
        except (OSError, HTTPException) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
            if furthest < 0 and isinstance(error, urllib.error.URLError):
                do = f"check the network and its proxy; {by_hand(part)}"
                raise DownloadError(wanted="an answer", got=problem, where=url, do=do) from error
        held = _size(part)
        tries = 1 if held > furthest else tries + 1
        furthest = max(furthest, held)
        if tries >= TRIES:
            wanted = f"{_state(part).get('total') or 'all'} bytes"
            do = "rerun the same command later to resume"
            raise DownloadError(wanted=wanted, got=f"{held} bytes, then {problem}", where=url, do=do)
        progress.log.info("%s: %s after %d bytes, trying again", title, problem, held)
        time.sleep(WAIT_S * 2 ** (tries - 1))


def by_hand(part: Path) -> str:
    """What to do where no download will come."""
    return f"or get it elsewhere and put it at {part.with_suffix('')}"


def _attempt(url: str, part: Path, title: str, room: str, advance: Callable[[int], None]) -> bool:
    """One request for what `part` lacks; True if it is whole then. What it holds of another version is dropped."""
    state = _state(part)
    held = _size(part) if state.get("url") == url else 0
    if held and held == state["total"]:
        return True
    headers = {"User-Agent": "evaltk"}
    if held:
        headers["Range"] = f"bytes={held}-"
        if state["etag"].startswith('"'):  # not a weak one; the server then sends the whole of a changed file
            headers["If-Range"] = state["etag"]
    try:
        response = open_url(url, headers, TIMEOUT_S, do=f"see whether that is right; {by_hand(part)}")
    except urllib.error.HTTPError as error:
        if error.code != 416 or not held:
            raise
        error.close()  # nothing lies beyond what is held: all of it is here, or the file has changed
        if state["total"] is None and error.headers.get("Content-Range") == f"bytes */{held}":
            return True
        part.unlink()
        return False
    with response:
        first, total = _extent(response)
        seen = {"url": url, "total": total, "etag": response.headers.get("ETag", "")}
        seen["modified"] = response.headers.get("Last-Modified", "")
        head = response.read(512)
        _check_body(response, head, url, part)
        _check_room(part, (total or 0) - (held if response.status == 206 else 0), title, room)
        if response.status == 206:
            changed = any(seen[key] and state[key] and seen[key] != state[key] for key in seen) if held else True
            if changed or first != held:
                part.unlink(missing_ok=True)
                return False
        else:  # in this order a crash never leaves old bytes beside the new description
            part.unlink(missing_ok=True)
            write_text(state_path(part), json.dumps(seen))
        with progress.bar(title, total or 0, done=first, unit="bytes") as tick:
            _append(part, head, response, (tick, advance))
    return total is None or _size(part) == total


def _extent(response: HTTPResponse) -> tuple[int, int | None]:
    """(offset of the first byte, bytes of the whole file or None) of what a response carries; -1 if it is unclear."""
    if response.status != 206:
        return 0, response.length
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip())
    return (int(found[1]), int(found[2])) if found else (-1, None)


def _check_body(response: HTTPResponse, head: bytes, url: str, part: Path) -> None:
    """Refuse what cannot be the file, before anything held is touched. Raises: DownloadError."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    page = response.headers.get_content_type() == "text/html" or start.startswith((b"<!doctype", b"<html"))
    if page:
        got, do = "a web page", "open the address in a browser: a login, a proxy or a notice stands before the file"
        do = f"{do}; {by_hand(part)}"
    elif response.status not in (200, 206) or (not head and not response.length):
        got, do = f"an empty answer (HTTP status {response.status})", f"try again later; {by_hand(part)}"
    elif response.status == 200 and response.length is None and not response.chunked:
        # Its end would look the same as a broken connection, and half a file would be pinned.
        got, do = "a body of unknown length, whose end cannot be told from a broken connection", by_hand(part)[3:]
    else:
        return
    raise DownloadError(wanted=f"the file {part.stem}", got=got, where=url, do=do)


def _check_room(part: Path, wanted: int, title: str, room: str) -> None:
    """Refuse what cannot fit, before the disk is full. Raises: StorageError."""
    free = shutil.disk_usage(part.parent).free
    if wanted > free:
        raise StorageError(
            wanted=f"room for {wanted / 2**20:,.0f} MiB of {title}",
            got=f"{free / 2**20:,.0f} MiB free",
            where=part.parent,
            do=f"free some space, or choose another folder: {room}",
        )


def _append(part: Path, block: bytes, response: HTTPResponse, reports: tuple[Callable[[int], None], ...]) -> None:
    """Write `block` and the rest of the response behind what `part` holds."""
    with storage_errors(part):
        stream = part.open("ab", buffering=0)  # so that closing has nothing left to write that could fail
    with stream:
        while block:
            with storage_errors(part):
                rest = memoryview(block)
                while rest:
                    rest = rest[stream.write(rest) :]
            for report in reports:
                report(len(block))
            block = response.read1(BLOCK)
        with storage_errors(part):
            os.fsync(stream.fileno())


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def state_path(part: Path) -> Path:
    """Where it is written down what `part` is the beginning of."""
    return part.with_name(part.name + ".json")


def _state(part: Path) -> dict[str, Any]:
    """{url, total bytes or None, etag, modified} of the file that `part` is the beginning of; {} if it is not known."""
    try:
        state = safe_json.parse(state_path(part).read_text(encoding="utf-8"))
        return {key: state[key] for key in ("url", "total", "etag", "modified")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
