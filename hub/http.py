"""The HTTP server: uvicorn inside the hub's own event loop.

Owns the listening socket and the server's life. Signals stay with `hub.app`.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from litestar.types import ASGIApp

from hub.errors import PortTaken

BACKLOG: Final = 200
GOODBYE_S: Final = 3
"""Longest that a stop waits for requests that are being answered."""

KEEP_ALIVE_S: Final = 75


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host`; port 0 takes a free one.

    Raises:
        PortTaken: Another program has the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise PortTaken(
            f"the HTTP API cannot listen on {host}:{port} ({error.strerror}): stop the program "
            "that has the port, or set http_port to another"
        ) from None
    listening.settimeout(0)
    return listening


class HttpServer:
    """One server for the life of the hub."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=GOODBYE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._server = _Server(config)
        self._listening = listening

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._server.serve(sockets=[self._listening])

    async def started(self) -> None:
        """Wait until requests are answered."""
        await self._server.is_started.wait()

    def stop(self) -> None:
        """Take no more requests, finish those that are being answered, and let `run` return."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_started.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: the hub's own stop decides when HTTP ends."""
        yield
