"""The HTTP server: uvicorn inside the hub's own event loop.

Owns the listening socket and the server's life. Signals stay with `hub.app`.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from hub.errors import PortTaken

BACKLOG: Final = 200
GOODBYE_S: Final = 3
"""Longest that a stop waits for requests that are being answered."""

KEEP_ALIVE_S: Final = 75

OVERFLOW: Final = 2
"""Connections beyond so many times the most that are served are ended without a word."""


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
    """One server for the life of the hub; over TLS if there is a context for it."""

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        *,
        connections_max_count: int,
        stall_s: float,
        context: ssl.SSLContext | None = None,
    ) -> None:
        class Bounded(_Connection):
            pass

        Bounded.stall_s = stall_s
        config = uvicorn.Config(
            app,
            http=Bounded,
            ws="none",
            limit_concurrency=connections_max_count,
            log_config=None,
            access_log=False,
            server_header=False,
            # Anybody on this machine could say with them that he is somebody else.
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=GOODBYE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        if context is not None:
            config.load()
            config.ssl = context
        self._server = _Server(config)
        self._listening = listening

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._server.serve(sockets=[self._listening])

    async def started(self) -> None:
        """Wait until requests are answered."""
        await self._server.is_started.wait()

    @property
    def connections_count(self) -> int:
        """How many connections there are now."""
        return len(self._server.server_state.connections)

    def stop(self) -> None:
        """Take no more requests, finish those that are being answered, and let `run` return."""
        self._server.should_exit = True


class _Connection(H11Protocol):
    """A connection that may not keep a place for nothing.

    The library waits for ever for the head of a request, and for a client that takes its answer.
    """

    stall_s: float
    _waiting: asyncio.TimerHandle | None = None
    _blocked: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limit = self.limit_concurrency
        if limit is not None and len(self.connections) > OVERFLOW * limit:
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._waiting = _stop(self._waiting)
        elif self._waiting is None:
            self._wait()

    def on_response_complete(self) -> None:
        self._waiting = _stop(self._waiting)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting = _stop(self._waiting)
        self._blocked = _stop(self._blocked)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._blocked is None:
            self._blocked = self.loop.call_later(self.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._blocked = _stop(self._blocked)
        super().resume_writing()

    def _wait(self) -> None:
        """Give the head of a request the stall time to arrive."""
        self._waiting = self.loop.call_later(self.stall_s, self.transport.close)


def _stop(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Stop a timer, and return what stands in its place."""
    if timer is not None:
        timer.cancel()
    return None


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
