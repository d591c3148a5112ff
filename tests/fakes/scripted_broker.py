"""A broker that says exactly what a test tells it to: real sockets, no MQTT logic of its own."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from hub.link_proxy import close_server, take_packets

CONNACK_3 = b"\x20\x02\x00\x00"
CONNACK_5 = b"\x20\x03\x00\x00\x00"
PINGRESP = b"\xd0\x00"


def suback(subscribe: bytes, *, version5: bool, reason: int = 1) -> bytes:
    """Return the answer to a SUBSCRIBE of one filter (shorter than 128 bytes)."""
    packet_id = subscribe[2:4]
    body = packet_id + (b"\x00" if version5 else b"") + bytes((reason,))
    return b"\x90" + bytes((len(body),)) + body


class Peer:
    """One client's connection, as the script sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._gathered = bytearray()
        self._packets: deque[bytes] = deque()

    async def read(self) -> bytes:
        """Return the next whole packet; raises EOFError when the client is gone."""
        while not self._packets:
            chunk = await self._reader.read(65_536)
            if not chunk:
                raise EOFError
            self._gathered += chunk
            self._packets += take_packets(self._gathered)
        return self._packets.popleft()

    def write(self, *packets: bytes) -> None:
        """Send packets, or bytes that are none."""
        self._writer.write(b"".join(packets))

    async def accept(self, connack: bytes) -> bytes:
        """Read CONNECT, answer it, and return it."""
        connect = await self.read()
        self.write(connack)
        return connect

    async def until_gone(self) -> list[bytes]:
        """Return what the client still sends until it leaves."""
        rest = []
        with contextlib.suppress(EOFError, OSError):
            while True:
                rest.append(await self.read())
        return rest


class ScriptedBroker:
    """Runs `scripts` one after the other, one for each connection; the last one again and again.

    A connection closes when its script returns. An assertion in a script fails the test.
    """

    def __init__(self, *scripts: Callable[[Peer], Awaitable[None]]) -> None:
        self.port = 0
        self.connection_count = 0
        self._scripts = scripts
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        await close_server(self._server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        script = self._scripts[min(self.connection_count, len(self._scripts) - 1)]
        self.connection_count += 1
        try:
            await script(Peer(reader, writer))
        except (EOFError, OSError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        except AssertionError as failure:
            self._failure = self._failure or failure
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)
