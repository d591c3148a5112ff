"""The HTTPS server that devices reach: TLS 1.3, and who is at the other end.

Owns the TLS of uvicorn. Each request's scope tells by which certificate the device came, by name
(`client_cert_name` of the TLS extension of ASGI) and bytes; whether that still counts is decided
elsewhere.
"""

import asyncio
import socket
import ssl
from typing import Any, Final

from litestar.types import ASGIApp

from hub.http import HttpServer

TLS_EXTENSION: Final = "tls"
CLIENT_NAME: Final = "client_cert_name"
CLIENT_CERTIFICATE: Final = "client_cert_der"


class HttpsServer(HttpServer):
    """One server for devices; `listening` as for `HttpServer`."""

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        context: ssl.SSLContext,
        *,
        connections_max_count: int,
        stall_s: float,
    ) -> None:
        super().__init__(
            app, listening, connections_max_count=connections_max_count, stall_s=stall_s
        )
        config = self._server.config
        config.http = _named(config.http)
        config.load()
        config.ssl = context


def _named(protocol: Any) -> Any:
    """Return `protocol` as one that knows from the handshake on who is at the other end."""

    class Named(protocol):  # type: ignore[misc]
        app: Any

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            encrypted = transport.get_extra_info("ssl_object")
            shown: Any = encrypted.getpeercert() if encrypted is not None else None
            der = encrypted.getpeercert(binary_form=True) if shown else None
            self.app = _Named(self.app, common_name(shown), der)

    return Named


class _Named:
    def __init__(self, app: Any, name: str | None, der: bytes | None) -> None:
        self._app = app
        self._shown = {CLIENT_NAME: name, CLIENT_CERTIFICATE: der}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("extensions", {})[TLS_EXTENSION] = self._shown
        await self._app(scope, receive, send)


def common_name(shown: Any) -> str | None:
    """Return the one common name of a certificate that `ssl` has verified; None without one."""
    if not shown:
        return None
    names = [
        value for part in shown.get("subject", ()) for key, value in part if key == "commonName"
    ]
    return str(names[0]) if len(names) == 1 else None
