"""Lets only the explorer's own page on this machine send requests, within size limits."""

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lens_multimodal.explorer.atlas_pages import ADDRESS
from lens_multimodal.explorer.limits import Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The only names this page answers to. A page elsewhere whose name was rebound to this machine still sends its
own name as `Host`."""

TOKEN_HEADER = "x-explorer-token"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

ATLAS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""For the pages of an atlas, which are made for reading from the disk and place their parts by inline styles."""


class Guard:
    """Middleware: refuses requests from other pages and machines and oversized bodies; adds protective headers.

    Every request except GET and HEAD needs the token, which only the page itself has.
    """

    def __init__(self, app: ASGIApp, *, token: str, limits: Limits) -> None:
        self._app = app
        self._token = token
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})

        async def send_closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                policy = {"Content-Security-Policy": ATLAS_POLICY} if scope["path"].startswith(ADDRESS) else {}
                MutableHeaders(scope=message).update(HEADERS | policy)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            body = await _read(receive, self._most(scope))
            if body is not None:
                return await self._app(scope, _replay(body, receive), send_closed)
            refusal = 413, f"the request is larger than the {self._most(scope):,} bytes allowed"
        status, reason = refusal
        await JSONResponse({"error": reason}, status_code=status)(scope, receive, send_closed)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _hostname(hosts[0]) not in LOOPBACK:
            return 421, f"the explorer answers only to {', '.join(LOOPBACK)}"
        reading = scope["method"] in ("GET", "HEAD")
        opening = reading and scope["path"] == "/"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not opening:
            return 403, "only the explorer's own page may send requests"
        if headers.get("origin", f"http://{hosts[0]}") != f"http://{hosts[0]}":
            return 403, "only the explorer's own page may send requests"
        if not reading and not secrets.compare_digest(headers.get(TOKEN_HEADER, "").encode(), self._token.encode()):
            return 403, "this page belongs to an explorer that was stopped: reload it"
        declared = headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > self._most(scope):
            return 413, f"the request is larger than the {self._most(scope):,} bytes allowed"
        return None

    def _most(self, scope: Scope) -> int:
        return self._limits.upload_bytes if scope["path"] == "/api/pictures" else self._limits.request_bytes


def _hostname(host: str) -> str:
    """A `Host` header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body; None as soon as it is longer than `most`."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
