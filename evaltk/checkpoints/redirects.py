"""Requests whose redirects cannot lead to another kind of address, or from a public host into a private network."""

from __future__ import annotations

import ipaddress
import socket
import urllib.request
from http.client import HTTPMessage, HTTPResponse
from typing import IO
from urllib.parse import urlsplit

from evaltk.errors import DownloadError


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, not from https to http, and to private hosts from private hosts only.

    do: what to do where one is refused.
    """

    def __init__(self, do: str = "see whether that is right, and download it yourself") -> None:
        self.do = do

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Raises: DownloadError: the redirect is refused."""
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        problem = ""
        if after.scheme not in ("http", "https"):
            problem = f"a redirect to a {after.scheme or 'nameless'} address"
        elif before.scheme == "https" and after.scheme == "http":
            problem = "a redirect from https to http"
        elif _private(after.hostname) and not _private(before.hostname):
            problem = "a redirect from a public host to a private one"
        if problem:
            raise DownloadError(
                wanted="the file",
                got=f"{problem}: {newurl}",
                where=req.full_url,
                do=self.do,
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _private(host: str | None) -> bool:
    """Whether a host is this machine, or in a network of its own; a name that cannot be looked up here is neither."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global for *_, address in found)


def open_url(url: str, headers: dict[str, str], timeout: float, *, do: str = "") -> HTTPResponse:
    """The answer to a GET request, after redirects. do: what to do where a redirect is refused.

    Raises: urllib.error.URLError, HTTPException; DownloadError: a redirect is refused, or leads to what is no address.
    """
    handler = Redirects(do) if do else Redirects()
    try:
        request = urllib.request.Request(url, headers=headers)
        response: HTTPResponse = urllib.request.build_opener(handler).open(request, timeout=timeout)
    except ValueError as error:  # such as a redirect to half an address
        raise DownloadError(wanted="the file", got=f"no address: {error}", where=url, do=handler.do) from error
    return response
