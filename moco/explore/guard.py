"""Who may ask: this machine, by the page's own address, with the token that was printed."""

import secrets
import sys
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moco.errors import one_line

HEADER = "x-moco-token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Lets through what names this server as its host, comes from no other page, and knows the token.

    The token is given once in the address (`/?token=`), from then on by a cookie that other sites' pages cannot send,
    or in the header X-Moco-Token by programs. Another name for this machine as host is how a page of elsewhere would
    reach a server here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token, self.cookie = app, token, f"moco-explore-{port}"
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in the application's place where something is amiss."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        given = HTTPConnection(scope).query_params.get("token") if scope["path"] == "/" else None
        refusal = self._refusal(scope["method"], Headers(scope=scope), given)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                if refusal is None and given is not None:
                    text = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                    own.append((b"set-cookie", text.encode()))
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        try:
            await (self.app if refusal is None else refusal)(scope, receive, guarded)
        except Exception as error:  # noqa: BLE001 - the page has its answer, 500, and the server goes on
            said = f"moco explore: {scope['method']} {scope['path']} failed: {type(error).__name__}: {error}"
            print(one_line(said), file=sys.stderr, flush=True)

    def _refusal(self, method: str, headers: Mapping[str, str], given: str | None) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self.hosts:
            return _refused(f"expected the host {min(self.hosts)}: use the address that moco explore printed", 421)
        known = self._known(headers.get(HEADER))
        if origin is not None and origin not in {f"http://{name}" for name in self.hosts}:
            return _refused("another site's page asked for this", 403)
        if method not in ("GET", "HEAD") and origin is None and not known:
            return _refused("the request does not say which page it comes from", 403)
        if known or self._known(given) or self._known(_cookie(headers.get("cookie", ""), self.cookie)):
            return None
        return _refused("the token is missing or of an earlier start: use the address that moco explore printed", 403)

    def _known(self, given: str | None) -> bool:
        return given is not None and secrets.compare_digest(given.encode(), self.token.encode())


def _cookie(text: str, name: str) -> str | None:
    try:
        found = SimpleCookie(text).get(name)
    except CookieError:
        return None
    return None if found is None else found.value


def _refused(reason: str, status: int) -> Response:
    return PlainTextResponse(f"moco explore: {reason}\n", status)
