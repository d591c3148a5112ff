"""Which programs may speak to the API at all: those that ask it by its names, and no web pages.

Owns the check of `Host`, `Origin` and `Sec-Fetch-Site`. Whoever passes still shows a token
(`hub.api.door`); this keeps pages that an operator opens from trying, by a request across sites or
by a name that turns into 127.0.0.1 once the page is loaded (DNS rebinding).
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from hub.api.peer import peer_of
from hub.api.problems import problem

LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})

WRONG_HOST: Final = (
    "this API answers only to the names of its own machine (127.0.0.1, localhost, ::1) and to "
    "those in its setting http_names: ask it by one of them"
)
WRONG_ORIGIN: Final = "web pages of other sites may not use this API"


class Guard:
    """ASGI middleware that turns strangers away before anything is read."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        http_host: str,
        http_names: Iterable[str] = (),
        proxy_address: str | None = None,
    ) -> None:
        self._app = app
        own = f"[{http_host}]" if ":" in http_host else http_host
        self._names = LOCAL_NAMES | {own} | {name.lower() for name in http_names}
        self._proxy_address = proxy_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if _name_of(host) not in self._names:
            await _refuse(send, 421, WRONG_HOST)
            return
        origin = headers.get(b"origin")
        site = headers.get(b"sec-fetch-site", "none")
        client = scope["client"][0] if scope["client"] is not None else ""
        scheme = peer_of(client, scope["scheme"], scope["headers"], self._proxy_address).scheme
        if (origin is not None and origin != f"{scheme}://{host}") or site not in {
            "none",
            "same-origin",
        }:
            await _refuse(send, 403, WRONG_ORIGIN)
            return
        await self._app(scope, receive, send)


def _name_of(host: str) -> str:
    """Return a Host header without its port."""
    name, _, port = host.rpartition(":")
    return (name if port.isdigit() and name else host).lower()


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = msgspec.json.encode(problem(status, detail).content)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
