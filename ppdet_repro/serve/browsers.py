"""What pages in a browser may do with the server: nothing, except for its own page and for origins that are named.

A browser sends requests to this server also for pages of other sites. It says so in headers that pages cannot change.
"""

from __future__ import annotations

import ipaddress
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {  # of all answers; the page loads its own script and style, and shows the user's file
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ENCODED = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
READING = ("GET", "HEAD", "OPTIONS")
UNCHECKED = "/health"  # a probe may use any name for the server, and learns nothing


class BrowserRules:
    """An application around `app` that adds `HEADERS` and refuses

    - requests under another name than those of `hosts`, if there are any: a page of another site whose name leads to
      this machine (DNS rebinding) has a wrong one;
    - requests other than for reading that a page of another origin has caused, except for `origins`, such as
      `https://example.org`.

    Programs that are not browsers send neither `Origin` nor `Sec-Fetch-Site` and are not affected by the second rule.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str]):
        self.app = app
        self.hosts = {*hosts, *(host_of(origin.partition("://")[2]) for origin in origins)} if hosts else set()
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *ENCODED]}
            await send(message)

        reason = self._refusal(scope["method"], scope["path"], headers_of(scope["headers"]))
        if reason is None:
            await self.app(scope, receive, send_with_headers)
        else:
            await JSONResponse({"detail": reason[1]}, reason[0])(scope, receive, send_with_headers)

    def _refusal(self, method: str, path: str, headers: Dict[str, str]) -> Optional[Tuple[int, str]]:
        host, origin, site = headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site")
        if self.hosts and path != UNCHECKED and host_of(host) not in self.hosts:
            return 400, "the request has another name for this server than its own; see --host and --allow_origin"
        if method in READING or origin in self.origins:
            return None
        if site is not None:
            same = site in ("same-origin", "none")
        else:
            same = origin is None or (host != "" and origin.lower().partition("://")[2] == host.lower())
        return None if same else (403, "the request comes from a page of another site; see --allow_origin")


def headers_of(raw: Iterable[Tuple[bytes, bytes]]) -> Dict[str, str]:
    """The headers by their names in lower case. Of several with one name, the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}


def host_of(netloc: str) -> str:
    """The name or address in `name:port`, `1.2.3.4` or `[::1]:port`, in lower case."""
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0].lower()
    return netloc.partition(":")[0].lower()


def names_of(host: str) -> List[str]:
    """The names under which a server is used that listens on `host`: those of this machine if nobody else can reach
    it, otherwise an empty list for any."""
    local = ["localhost", "127.0.0.1", "::1"]
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    return sorted({*local, host}) if is_local else []
